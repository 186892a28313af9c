"""Lists of assemblies, and the table that they become; NCBI's service is played by a server here,
in the documented shape of its answers."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_server import LoopbackServer, serve

pytest.importorskip("requests")

from nucleotide_transformer import cli
from nucleotide_transformer.data import assemblies as assemblies_module
from nucleotide_transformer.data import ncbi
from nucleotide_transformer.data.assemblies import (
    COLUMNS,
    Assembly,
    ListConfig,
    load_assemblies,
    read_requests,
    save_assemblies,
)
from nucleotide_transformer.data.ncbi import list_assemblies
from nucleotide_transformer.errors import InputError, RunFailedError

COLI, YEAST, LION = "GCF_000005845.2", "GCF_000146045.2", "GCA_018350215.1"
NAMES = {COLI: "Escherichia coli", YEAST: "Saccharomyces cerevisiae", LION: "Panthera leo"}
BODY = b">chr1\nACGT\n"
MD5 = hashlib.md5(BODY).hexdigest()


def make_folder(accession: str) -> str:
    digits = accession[4:13]
    triples = "/".join(digits[place : place + 3] for place in (0, 3, 6))
    return f"/genomes/all/{accession[:3]}/{triples}/{accession}_ASM1v2"


def make_file(accession: str) -> str:
    return f"{accession}_ASM1v2_genomic.fna.gz"


def make_report(accession: str) -> dict[str, object]:
    return {
        "accession": accession,
        "organism": {"tax_id": 1, "organism_name": NAMES[accession]},
        "assembly_info": {"assembly_name": "ASM1v2", "assembly_level": "Complete Genome"},
        "assembly_stats": {"total_sequence_length": "4"},
    }


class Service:
    """NCBI's service and file server; knows the three assemblies above."""

    def __init__(self, server: LoopbackServer) -> None:
        self.server = server
        for accession in NAMES:
            folder, file = make_folder(accession), make_file(accession)
            server.files[f"{folder}/{file}"] = BODY
            lines = [f"{'0' * 32}  ./{accession}_ASM1v2_assembly_stats.txt", f"{MD5}  ./{file}"]
            server.files[f"{folder}/md5checksums.txt"] = "\n".join(lines).encode()

    def answer_accessions(self, *accessions: str) -> None:
        known = [accession for accession in accessions if accession in NAMES]
        path = f"/genome/accession/{','.join(accessions)}"
        self.answer(
            f"{path}/dataset_report?page_size=100", {"reports": list(map(make_report, known))}
        )
        links = [
            {"accession": each, "assembly_link_type": kind, "resource_link": link}
            for each in known
            for kind, link in (
                ("GDV_LINK", "https://www.ncbi.nlm.nih.gov/genome/gdv"),
                ("FTP_LINK", f"{self.server.address}{make_folder(each)}/"),
            )
        ]
        self.answer(f"{path}/links", {"assembly_links": links})

    def answer(self, path: str, values: object) -> None:
        self.server.answers[path] = json.dumps(values).encode()


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as server:
        yield Service(server)


def make_config(service: Service, folder: Path, *words: str, **options: object) -> ListConfig:
    values = {"output": folder / "genomes.tsv", "service": service.server.address} | options
    return ListConfig(inputs=words, **values)  # type: ignore[arg-type]


def expect(service: Service, accession: str) -> Assembly:
    address = f"{service.server.address}{make_folder(accession)}/{make_file(accession)}"
    name = NAMES[accession]
    return Assembly(make_file(accession), name, accession, "", address, len(BODY), f"md5:{MD5}")


def test_accessions_become_a_table(service: Service, tmp_path: Path) -> None:
    """Two words and a list of one more and one again; one of them NCBI does not know."""
    gone = "GCF_999999999.1"
    path = tmp_path / "list.txt"
    path.write_text(f"# mine\n{YEAST}\n\n{COLI}\n{gone}\n")
    service.answer_accessions(LION, COLI, YEAST, gone)
    service.server.faults[f"/genome/accession/{LION},{COLI},{YEAST},{gone}/links"] = [(503, 0), 429]
    failed = list_assemblies(make_config(service, tmp_path, LION, COLI, str(path)))
    assert failed == [f"{path}: line 5: {gone}: NCBI has no files of it"]
    table = load_assemblies(tmp_path / "genomes.tsv")
    assert table == [expect(service, accession) for accession in (LION, COLI, YEAST)]


@pytest.mark.parametrize("reference_only", [True, False])
def test_a_taxon_is_listed_page_by_page(
    reference_only: bool, service: Service, tmp_path: Path
) -> None:
    path = "/genome/taxon/Panthera%20leo/dataset_report?page_size=100"
    path += "&filters.reference_only=true" * reference_only
    first, second = {"reports": [make_report(LION)]}, {"reports": [make_report(YEAST)]}
    service.answer(path, first | {"total_count": 2, "next_page_token": "abc"})
    service.answer(f"{path}&page_token=abc", second | {"total_count": 2})
    service.answer_accessions(LION, YEAST)
    words = ["taxon:Panthera leo"]
    config = make_config(service, tmp_path, *words, reference_only=reference_only)
    assert list_assemblies(config) == []
    table = load_assemblies(config.output)
    assert table == [expect(service, LION), expect(service, YEAST)]


def test_addresses_keep_theirs_and_are_named_by_ncbi(service: Service, tmp_path: Path) -> None:
    """As the published list: one address in a line, most of them on NCBI's file server."""
    coli = f"{service.server.address}{make_folder(COLI)}/{make_file(COLI)}"
    service.server.files["/my/wolf_v1.fa.gz"] = BODY
    own = f"{service.server.address}/my/wolf_v1.fa.gz"
    gone = f"{service.server.address}/my/gone.fa.gz"
    path = tmp_path / "urls.csv"
    path.write_text(f'species,url\n"Canis lupus",{own}\n,{coli}\n,{gone}\n')
    service.answer_accessions(COLI)
    failed = list_assemblies(make_config(service, tmp_path, str(path)))
    assert failed == [f"{path}: line 4: {gone}: 404 Not Found"]
    wolf = Assembly("wolf_v1.fa.gz", "Canis lupus", "wolf_v1", "", own, len(BODY), "")
    assert load_assemblies(tmp_path / "genomes.tsv") == [wolf, expect(service, COLI)]


def test_the_list_of_a_dataset_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def fetch(repository: str, name: str, *, repo_type: str) -> str:
        asked.append((repository, name, repo_type))
        if name == "urls.csv":
            raise EntryNotFoundError.__new__(EntryNotFoundError)  # versions differ in arguments
        (tmp_path / name).write_text(
            "ftp://ftp.ncbi.nlm.nih.gov/a/GCF_000005845.2_x_genomic.fna.gz\n"
        )
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    (request,) = read_requests(["hub:InstaDeepAI/multi_species_genomes"])
    assert asked == [
        ("InstaDeepAI/multi_species_genomes", n, "dataset") for n in ("urls.csv", "urls.txt")
    ]
    assert (request.accession, request.address[:6]) == (COLI, "ftp://")

    def fail(*_: object, **__: object) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(RunFailedError, match=r"hub:a/b: urls\.csv: no network") as error:
        read_requests(["hub:a/b"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("url\nnone of it\n", "list.txt: line 2: 'none of it': must hold an accession"),
        (f"{COLI}\nGCF_12\n", "list.txt: line 2: 'GCF_12': must hold an accession"),
        (f"{COLI}\nhttp://[x/y.fa\n", "list.txt: line 2: 'http://[x/y.fa': must hold an access"),
        (f"{COLI}\n{COLI},caf\xe9\n", "list.txt: line 2: must be text in UTF-8"),
    ],
)
def test_a_line_that_asks_for_nothing(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError) as error:
        read_requests([str(path)])
    assert message in str(error.value)
    for word in ("GCF_1", "http://[x/y.fa"):
        with pytest.raises(
            FileNotFoundError, match=": no such file: must be an accession"
        ) as error:
            read_requests([word])
        assert str(error.value).startswith(word)


def test_a_table_of_the_user_is_left_alone(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nothing is asked for before it is looked at."""
    table = tmp_path / "mine.tsv"
    table.write_text("mine")
    words = ["--inputs", COLI, "--output", str(table), "--service", service.server.address]
    assert cli.main(["corpus", "list", *words]) == 2
    message = f"error: {table}: exists already: delete it, or choose another name\n"
    assert capfd.readouterr() == ("", message)
    assert table.read_text() == "mine"
    assert service.server.asked == []


def test_the_service_is_down(service: Service, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=rf"accession/{COLI}/dataset_report: 404") as error:
        list_assemblies(make_config(service, tmp_path, COLI))
    assert "\n" not in str(error.value)
    service.server.answers[f"/genome/accession/{COLI}/dataset_report?page_size=100"] = b"<html>"
    with pytest.raises(RunFailedError, match="not the JSON of NCBI's service"):
        list_assemblies(make_config(service, tmp_path, COLI))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../x.fa\t\t\t\thttps://h/x.fa\t\t", "file = '../x.fa': must be a name"),
        (".x\t\t\t\thttps://h/x.fa\t\t", "file = '.x': must be a name"),
        ("x.fa\t\t\t\tgenomes/x.fa\t\t", "address = 'genomes/x.fa': must be"),
        ("x.fa\t\t\t\thttp://[x/x.fa\t\t", "address = 'http://[x/x.fa': must be"),
        ("x.fa\t\t\t\tftp://x:66666/x.fa\t\t", "address = 'ftp://x:66666/x.fa': must be"),
        ("x.fa\tHomo\tsapiens\t1\t\thttps://h/x.fa\t1\tmd5:1", "8 cells: must have 7"),
        ("x.fa\tcaf\xe9\t\t\thttps://h/x.fa\t1\t", "must be text in UTF-8"),
        ("x.fa\t\t\t\thttps://h/x.fa\tmany\t", "bytes = 'many': must be"),
        (f"x.fa\t\t\t\thttps://h/x.fa\t{'9' * 5000}\t", "bytes = '999"),
        ("x.fa\t\t\t\thttps://h/x.fa\t1\tmd5:1", "checksum = 'md5:1': must be"),
    ],
)
def test_bad_tables(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "genomes.tsv"
    path.write_text("\t".join(COLUMNS) + f"\n{line}\n", encoding="latin-1")
    with pytest.raises(InputError) as error:
        load_assemblies(path)
    assert str(error.value).startswith(f"{path}: line 2: {message}")


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = Assembly("x.fa", "a", "1", "", "https://h/a/x.fa", None, "")
    named = ncbi._name_apart([one, one._replace(address="https://h/b/x.fa")])
    assert [each.file for each in named] == ["x.fa", "2_x.fa"]
    save_assemblies(tmp_path / "t.tsv", named)
    assert load_assemblies(tmp_path / "t.tsv") == named
    assert assemblies_module.COLUMNS[:3] == ("file", "species", "assembly")


def test_both_commands(service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One file is gone by the time of the download: it is reported, and the code says so."""
    service.answer_accessions(COLI, LION)
    table = tmp_path / "genomes" / "genomes.tsv"
    words = ["--inputs", COLI, LION, "--output", str(table)]
    assert cli.main(["corpus", "list", *words, "--service", service.server.address]) == 0
    assert f"wrote {table}: 2 assemblies" in capfd.readouterr().out
    del service.server.files[f"{make_folder(LION)}/{make_file(LION)}"]
    assert cli.main(["corpus", "download", str(table)]) == 1
    out, err = capfd.readouterr()
    assert f"failed: {make_file(LION)}: 404 Not Found" in out
    assert err.endswith("error: 1 of 2 files failed; the same command asks for them again\n")
    assert (table.parent / make_file(COLI)).read_bytes() == BODY
