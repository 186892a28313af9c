"""What NCBI says of assemblies: their species, their files and the digests of these.

The shape of its answers is that of the documented REST service "Datasets", version 2: pages of
`reports`, and the `links` of accessions, of which FTP_LINK is the folder on its file server. In
that folder `md5checksums.txt` has a line for each file.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit

from nucleotide_transformer.data.assemblies import (
    TAXON,
    Assembly,
    ListConfig,
    Request,
    name_address,
    read_requests,
    save_assemblies,
)
from nucleotide_transformer.data.intervals import is_count
from nucleotide_transformer.data.web import find_server, get, make_session
from nucleotide_transformer.errors import InputError, RunFailedError
from nucleotide_transformer.files import check_new

_PAGE = 100
"""Assemblies asked for at a time."""
_NUM_THREADS = 8
_NUM_RETRIES = 6
Note = Callable[[str], None]
"""Is told what is being done."""


def list_assemblies(config: ListConfig, *, note: Note = lambda _: None) -> list[str]:
    """Writes the table of the assemblies that are asked for.

    Returns:
        A line for each assembly that is not in the table, because nothing was found of it.

    Raises:
        OutputExistsError: if the table is there already.
        InputError: for a word or a line of a list that asks for nothing, or if nothing is found.
        RunFailedError: if the service does not answer.
    """
    check_new(config.output)
    taxa = [word for word in config.inputs if word.startswith(TAXON)]
    requests = read_requests([word for word in config.inputs if word not in taxa])
    session = make_session(_NUM_RETRIES)
    reports: dict[str, Any] = {}
    for word in taxa:
        note(f"asking for {word}")
        for report in _list_taxon(session, config, word):
            reports[report["accession"]] = report
            requests.append(Request(word, report["accession"], "", ""))
    requests = list({each.accession or each.address: each for each in requests}.values())
    wanted = [each.accession for each in requests if each.accession not in ("", *reports)]
    note(f"asking for {len(requests):,} assemblies")
    for some in _split(wanted):
        reports |= {report["accession"]: report for report in _list_reports(session, config, some)}
    folders = _find_folders(session, config, [r.accession for r in requests if not r.address])

    def complete(request: Request) -> Assembly | str:
        return _complete(session, request, reports, folders)

    note(f"reading sizes and digests of {len(requests):,} files")
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        results = list(pool.map(complete, requests))
    found = [each for each in results if isinstance(each, Assembly)]
    failed = [each for each in results if isinstance(each, str)]
    if not found:
        raise InputError(f"{config.output}: no assembly found: {'; '.join(failed[:3])}")
    save_assemblies(config.output, _name_apart(found))
    return failed


def _complete(
    session: Any, request: Request, reports: dict[str, Any], folders: dict[str, str]
) -> Assembly | str:
    """The assembly that is asked for, or why there is none."""
    report = reports.get(request.accession, {})
    address = request.address
    if not address:
        folder = folders.get(request.accession, "")
        if not folder:
            return f"{request.place}: {request.accession}: NCBI has no files of it"
        address = f"{folder}/{folder.rpartition('/')[2]}_genomic.fna.gz"
    species = report.get("organism", {}).get("organism_name", "") or request.species
    assembly = name_address(address, species)
    try:
        num_bytes = _find_size(session, address)
        checksum = _find_checksum(session, address) if request.accession else ""
    except RunFailedError as error:
        return f"{request.place}: {error}"
    return assembly._replace(num_bytes=num_bytes, checksum=checksum)


def _list_taxon(session: Any, config: ListConfig, word: str) -> Iterator[dict[str, Any]]:
    taxon = quote(word.removeprefix(TAXON), safe="")
    filters = {"filters.reference_only": "true"} if config.reference_only else {}
    yield from _list_pages(session, f"{config.service}/genome/taxon/{taxon}", filters)


def _list_reports(
    session: Any, config: ListConfig, accessions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    path = f"{config.service}/genome/accession/{quote(','.join(accessions), safe=',')}"
    yield from _list_pages(session, path, {})


def _list_pages(session: Any, path: str, filters: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Reports of all pages; an accession that NCBI does not know has none."""
    token = ""
    while True:
        options = {"page_size": str(_PAGE), **filters} | ({"page_token": token} if token else {})
        values = _read_json(get(session, f"{path}/dataset_report", params=options), path)
        yield from (each for each in values.get("reports", []) if each.get("accession"))
        token = values.get("next_page_token", "")
        if not token:
            return


def _find_folders(session: Any, config: ListConfig, accessions: Sequence[str]) -> dict[str, str]:
    """Accession -> its folder on the file server."""
    folders = {}
    for some in _split([each for each in accessions if each]):
        path = f"{config.service}/genome/accession/{quote(','.join(some), safe=',')}/links"
        for link in _read_json(get(session, path), path).get("assembly_links", []):
            if link.get("assembly_link_type") == "FTP_LINK":
                folders[link["accession"]] = link["resource_link"].rstrip("/")
    return folders


def _read_json(answer: Any, path: str) -> dict[str, Any]:
    try:
        values = answer.json()
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise RunFailedError(f"{path}: the answer is not the JSON of NCBI's service")
    return values


def _find_size(session: Any, address: str) -> int | None:
    """Bytes of a file, if the server says; by FTP it is not asked."""
    if urlsplit(find_server(address)).scheme == "ftp":
        return None
    with get(session, address, stream=True) as answer:
        length = answer.headers.get("Content-Length", "")
        return int(length) if is_count(length) else None


def _find_checksum(session: Any, address: str) -> str:
    """MD5 of a file, from the list in its folder; empty if there is none."""
    folder, _, file = address.rpartition("/")
    try:
        text = get(session, f"{folder}/md5checksums.txt").text
    except RunFailedError:
        return ""
    found = re.search(rf"^([0-9a-f]{{32}})\s+\*?(?:\./)?{re.escape(file)}$", text, re.MULTILINE)
    return f"md5:{found[1]}" if found else ""


def _name_apart(assemblies: Sequence[Assembly]) -> list[Assembly]:
    """The same assemblies, with another file name where two have one."""
    seen: set[str] = set()
    named = []
    for assembly in assemblies:
        file, number = assembly.file, 1
        while file in seen:
            number += 1
            file = f"{number}_{assembly.file}"
        seen.add(file)
        named.append(assembly._replace(file=file))
    return named


def _split(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(items), _PAGE):
        yield items[first : first + _PAGE]
