"""conf/lang against a checked table, the benchmarks' own language lists, and Hydra; conf/model against the schema.

tests/data/languages.csv is the table. Its resource classes are lang2tax.txt's of Joshi et al. (2020); that list has
names instead of codes and several names for some languages, of which the highest class counts, 0 for none. A romanised
variant has its language's class. `flores_plus` is the config of openlanguagedata/flores_plus since version 2.0.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, SHARED
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from align_pipeline.config import register
from align_pipeline.config.lang import Language
from align_pipeline.config.model import ModelConfig
from align_pipeline.data.source import Source

LANG = REPOSITORY / "conf" / "lang"
MODELS = sorted((REPOSITORY / "conf" / "model").glob("*.yaml"))
TABLE = {r["code"]: r for r in csv.DictReader((REPOSITORY / "tests/data/languages.csv").open(encoding="utf-8"))}
FILES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(LANG.glob("*.yaml"))}
COLUMNS = {"belebele": "belebele", "xcopa": "xcopa", "xstorycloze": "xstorycloze", "flores": "flores_plus"}
COLUMNS |= {"opus100": "opus100", "ntrex": "ntrex"}
DATASETS = {
    "belebele": "facebook/belebele",
    "xcopa": "cambridgeltl/xcopa",
    "xstorycloze": "juletxara/xstory_cloze",
    "flores": "openlanguagedata/flores_plus",
}

# The configs of facebook/belebele, as its README lists them.
BELEBELE = """
acm_Arab afr_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng azj_Latn
bam_Latn ben_Beng ben_Latn bod_Tibt bul_Cyrl cat_Latn ceb_Latn ces_Latn ckb_Arab dan_Latn deu_Latn ell_Grek
eng_Latn est_Latn eus_Latn fin_Latn fra_Latn fuv_Latn gaz_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr
hin_Deva hin_Latn hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan
kac_Latn kan_Knda kat_Geor kaz_Cyrl kea_Latn khk_Cyrl khm_Khmr kin_Latn kir_Cyrl kor_Hang lao_Laoo lin_Latn
lit_Latn lug_Latn luo_Latn lvs_Latn mal_Mlym mar_Deva mkd_Cyrl mlt_Latn mri_Latn mya_Mymr nld_Latn nob_Latn
npi_Deva npi_Latn nso_Latn nya_Latn ory_Orya pan_Guru pbt_Arab pes_Arab plt_Latn pol_Latn por_Latn ron_Latn
rus_Cyrl shn_Mymr sin_Latn sin_Sinh slk_Latn slv_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srp_Cyrl
ssw_Latn sun_Latn swe_Latn swh_Latn tam_Taml tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tsn_Latn tso_Latn
tur_Latn ukr_Cyrl urd_Arab urd_Latn uzn_Latn vie_Latn war_Latn wol_Latn xho_Latn yor_Latn zho_Hans zho_Hant
zsm_Latn zul_Latn
"""
XCOPA = {"et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"}
XSTORYCLOZE = {"ar", "en", "es", "eu", "hi", "id", "my", "ru", "sw", "te", "zh"}
ROMANISED = {"ben_Latn", "hin_Latn", "npi_Latn", "sin_Latn", "urd_Latn"}  # Belebele's own, not in FLORES
ONLY_DECLARED = {
    "bel_Cyrl",
    "cym_Latn",
    "ewe_Latn",
    "fao_Latn",
    "glg_Latn",
    "twi_Latn",
    "uig_Arab",
}  # for the benchmarks with `codes`
FAMILIES = {
    "Afro-Asiatic",
    "Austroasiatic",
    "Austronesian",
    "Basque (isolate)",
    "Creole",
    "Dravidian",
    "Indo-European",
    "Japonic",
    "Kartvelian",
    "Koreanic",
    "Kra-Dai",
    "Mande",
    "Mongolic",
    "Niger-Congo",
    "Nilotic",
    "Quechuan",
    "Sino-Tibetan",
    "Tupian",
    "Turkic",
    "Uralic",
}
OPUS100 = """af am an ar as az be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu
hy id ig is it ja ka kk km kn ko ku ky li lt lv mg mk ml mn mr ms mt my nb ne nl nn no oc or pa pl ps pt ro ru rw se sh
si sk sl sq sr sv ta te tg th tk tr tt ug uk ur uz vi wa xh yi yo zh zu"""  # the card of Helsinki-NLP/opus-100
EMBEDDED = ["swh", "spa", "ind", "ita", "tur", "deu", "fra"]


def codes(dataset: str) -> list[str]:
    return [config["codes"][dataset] for config in FILES.values() if dataset in config["codes"]]


def published() -> list[dict[str, str]]:
    path = SHARED / "published" / "accuracy.csv"
    if not path.is_file():
        pytest.skip("no ../shared/published beside this checkout")
    return list(csv.DictReader(path.open(encoding="utf-8")))


# ---- the files


def test_files_are_the_rows_of_the_table() -> None:
    assert FILES.keys() == TABLE.keys()


@pytest.mark.parametrize("code", FILES)
def test_file_says_what_the_table_says(code: str) -> None:
    row = TABLE[code]
    expected: dict[str, Any] = {key: row[key] for key in ("name", "script", "family", "flores")}
    expected["resource"] = int(row["resource"])
    expected["codes"] = {dataset: row[column] for dataset, column in COLUMNS.items() if row[column]}
    if row["xcopa_pivot"]:
        expected["pivots"] = {"xcopa": row["xcopa_pivot"]}
    assert FILES[code] == expected
    first = (LANG / f"{code}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# @package languages.{code}"


@pytest.mark.parametrize("code", FILES)
def test_file_is_named_by_its_flores_code(code: str) -> None:
    flores = FILES[code]["flores"]
    variants = [config["flores"] for config in FILES.values() if config["flores"][:3] == flores[:3]]
    assert code == (flores if len(variants) > 1 else flores[:3])


@pytest.mark.parametrize("code", FILES)
def test_values_are_in_range(code: str) -> None:
    config = FILES[code]
    assert config["flores"][4:] == config["script"]
    assert config["resource"] in range(6)
    assert config["family"] in FAMILIES
    for value in config["codes"].values():
        assert isinstance(value, str)  # YAML 1.1 reads an unquoted `no` as false
        assert "_" not in value or value.split("_")[1] == config["script"]


def test_codes_are_the_official_lists() -> None:
    assert len(BELEBELE.split()) == 122
    assert set(codes("belebele")) == set(BELEBELE.split())
    assert set(codes("xcopa")) == XCOPA
    assert set(codes("xstorycloze")) == XSTORYCLOZE
    assert {
        config["flores"] for config in FILES.values() if "flores" not in config["codes"]
    } == ROMANISED | ONLY_DECLARED
    assert set(codes("opus100")) <= set(OPUS100.split())


@pytest.mark.parametrize("dataset", COLUMNS)
def test_no_two_languages_share_a_code(dataset: str) -> None:
    assert [code for code, count in Counter(codes(dataset)).items() if count > 1] == []
    assert len({config["flores"] for config in FILES.values()}) == len(FILES)
    assert len({config["name"] for config in FILES.values()}) == len(FILES)


def test_variants_of_a_language_differ_in_script_only() -> None:
    for code in ("arb", "ben", "hin", "npi", "sin", "urd", "zho"):
        variants = [config for name, config in FILES.items() if name.startswith(code + "_")]
        assert len(variants) == 2
        assert len({(config["family"], config["resource"]) for config in variants}) == 1


def test_xcopa_pivots_are_translations_from_the_same_language() -> None:
    for config in FILES.values():
        xcopa = config["codes"].get("xcopa")
        # Quechua has no English of its own; the paper compares it with Swahili's.
        expected = None if xcopa is None else {"xcopa": f"translation-{'sw' if xcopa == 'qu' else xcopa}"}
        assert config.get("pivots") == expected


# ---- what lies beside the checkout


def test_every_published_language_exists() -> None:
    known = {config["flores"]: config["codes"] for config in FILES.values()}
    for row in published():
        if row["task"] == "xcopa" and row["flores_code"] == "eng_Latn":
            continue  # a translation into English, which is a pivot
        assert row["task"] in known[row["flores_code"]]


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_local_config_is_reachable(dataset: str, shared_data: Path) -> None:
    reachable = set(codes(dataset)) | {p["pivots"][dataset] for p in FILES.values() if dataset in p.get("pivots", {})}
    if dataset == "flores":  # copies older than FLORES+ 2.0 have the names of FLORES-200
        reachable |= {config["flores"] for config in FILES.values()}
    present = Source(str(shared_data)).configs(DATASETS[dataset])
    assert present is not None
    assert present <= reachable


# ---- selections


def select(folder: Path, *overrides: str) -> Any:
    """What `lang=` composes to, below a config.yaml that has nothing else."""
    group = folder / "lang"
    if not group.exists():
        group.symlink_to(LANG, target_is_directory=True)
        (folder / "config.yaml").write_text("defaults:\n  - lang: [swh]\n  - _self_\n")
    with initialize_config_dir(str(folder), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lang=deu", ["deu"]),
        ("lang=[swh,ind]", ["swh", "ind"]),
        ("lang=set/embedded", EMBEDDED),
        ("lang=[set/embedded]", EMBEDDED),
        ("lang=[deu,set/embedded,zho_Hans,deu]", ["deu", "swh", "spa", "ind", "ita", "tur", "fra", "zho_Hans"]),
        ("lang=[set/embedded,set/embedded]", EMBEDDED),
    ],
)
def test_selection(override: str, expected: list[str], tmp_path: Path) -> None:
    composed = select(tmp_path, override)
    assert composed == {"languages": {code: FILES[code] for code in expected}}
    assert list(composed["languages"]) == expected


@pytest.mark.parametrize("dataset", ["belebele", "xcopa", "xstorycloze", "flores"])
def test_set_of_a_benchmark_has_all_its_languages_but_the_pivot(dataset: str, tmp_path: Path) -> None:
    members = list(select(tmp_path, f"lang=set/{dataset}")["languages"])
    assert members == [code for code, config in FILES.items() if dataset in config["codes"] and code != "eng"]


def test_set_of_the_paper_is_what_it_published(tmp_path: Path) -> None:
    members = {language["flores"] for language in select(tmp_path, "lang=set/belebele_paper")["languages"].values()}
    assert len(members) == 81
    assert members == {row["flores_code"] for row in published() if row["task"] == "belebele"} - {"eng_Latn"}


def test_a_glob_sweeps_over_languages_only(tmp_path: Path) -> None:
    select(tmp_path)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert GlobalHydra.instance().config_loader().get_group_options("lang") == list(FILES)


@pytest.mark.parametrize("code", FILES)
def test_file_fits_the_schema(code: str) -> None:
    language = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Language), FILES[code]))
    assert isinstance(language, Language)
    assert language.flores == FILES[code]["flores"]


@pytest.mark.parametrize("path", [path for path in MODELS if path.stem != "tuned"], ids=lambda path: path.stem)
def test_model_fits_the_schema(path: Path) -> None:
    register()
    model = OmegaConf.merge(OmegaConf.structured(ModelConfig), yaml.safe_load(path.read_text(encoding="utf-8")))
    assert OmegaConf.is_missing(model, "path") == (path.stem == "custom")
    assert path.stem == "custom" or OmegaConf.create({"model": model}).model.name == path.stem
    assert model.trust_remote_code is False
