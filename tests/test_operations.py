"""Profiles: operations are found in traces of every platform, and sorted by what they do."""

import pytest
from jax.profiler import ProfileData

from nucleotide_transformer.benchmark import operations

KINDS = {
    "all-gather.1": "between devices",
    "cublas_gemm.3": "matrix products",
    "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NTT": "matrix products",
    "loop_add_fusion": "elementwise and sums",
    "cudnn_fmha.2": "attention kernel",
    "gather.1": "moves",
    "loop_broadcast_fusion.2": "moves",
    "broadcast_divide_fusion.36": "elementwise and sums",  # its last operation counts
    "copy_bitcast_fusion": "moves",  # and a bitcast is none
}

TRACE = """
planes {{
  name: "{plane}"
  lines {{ name: "{line}" events {{ metadata_id: 1 duration_ps: 3000000 {stat} }}
           events {{ metadata_id: 2 duration_ps: 3000000 }} }}
  lines {{ name: "others" events {{ metadata_id: 1 duration_ps: 7000000 }} }}
  event_metadata {{ key: 1 value {{ id: 1 name: "{event}" }} }}
  event_metadata {{ key: 2 value {{ id: 2 name: "end: {event}" }} }}
  stat_metadata {{ key: 5 value {{ id: 5 name: "hlo_op" }} }}
}}
planes {{
  name: "/host:CPU"
  lines {{ name: "launches" events {{ metadata_id: 1 duration_ps: 9000000 {stat} }} }}
  event_metadata {{ key: 1 value {{ id: 1 name: "launch" }} }}
  stat_metadata {{ key: 5 value {{ id: 5 name: "hlo_op" }} }}
}}
"""


@pytest.mark.parametrize(
    ("plane", "line", "event", "stat"),
    [
        (
            "/device:GPU:0",
            "Stream #14(Compute)",
            "kernel",
            'stats { metadata_id: 5 str_value: "dot.1" }',
        ),
        ("/device:TPU:0", "XLA Ops", "%dot.1 = bf16[8] dot(a, b)", ""),
    ],
)
def test_operations_of_accelerators_are_read_from_their_own_lines(plane, line, event, stat):
    text = TRACE.format(plane=plane, line=line, event=event, stat=stat)
    events = list(operations.read_events(ProfileData.from_text_proto(text)))
    # Not the launch by the host, not the other lines, not the mark of the end.
    assert [(found.name, round(found.seconds * 1e6, 6)) for found in events] == [("dot.1", 3.0)]


def test_operations_are_named_after_their_place_in_the_model():
    program = """
      %dot.7 = f32[8,8] dot(%a, %b), metadata={op_name="PLACE"}
      ROOT %copy.3 = f32[8,8] copy(%dot.7), metadata={op_name="jit(f)/block/fc1/transpose;jit(f)/x"}
      %while.2 = (f32[8]) while(%c), condition=%d, body=%e, metadata={op_name="jit(f)/while"}
    """
    place = "jit(f)/while/body/closed_call/transpose(jvp(m))/block/mha/dot_general"
    places = operations.find_places(program.replace("PLACE", place))
    assert list(places) == ["dot.7", "copy.3", "while.2"]
    dot = operations.describe_operation("dot.7", places["dot.7"], 1.0, 2.0, num_devices=2)
    assert (dot.part, dot.kind) == ("backward block/mha/dot_general", "matrix products")
    copy = operations.describe_operation("copy.3", places["copy.3"], 1.0, 2.0, num_devices=2)
    assert (copy.part, copy.kind) == ("block/fc1/transpose", "moves")
    assert {name: operations.find_kind(name, "", num_devices=2) for name in KINDS} == KINDS
    assert operations.find_kind("fusion.3", place, num_devices=1) == "matrix products"
    assert operations.find_kind("dot.1", "block/mha/transpose", num_devices=1) == "matrix products"
    assert operations.find_kind("all-reduce", "jit(f)/psum", num_devices=1) == "moves"
    events = [operations.Event(name, 1.5) for name in ("while.2", "dot.7", "dot.7", "call")]
    assert operations.sum_events(iter(events)) == {"dot.7": (2 / 3, 1.0)}
