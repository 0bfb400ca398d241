"""Every layout of every registered reader.

The one place of the campaign that knows them: a new reader needs a line in LAYOUTS, and a campaign without it
says so.
"""

from tests.faults.sets import Layout, boxes_csv, coco_at, points_text, txt_at, voc
from utils.registry import DATASETS

NUDT_LISTS = (("train.txt", "*/Mix/00001.mat"), ("test.txt", "*/Mix/00001.mat"))
PLAIN_LISTS = (("train.txt", "*"), ("test.txt", "*"))
MASKS = {"images": ("images/*",), "masks": ("masks/*",)}
NUDT = {"images": ("*/images",), "masks": ("*/masks",), "centroids": ("*/masks_centroid",)}
NOISE = "NUDT-MIRSDT-Noise/version"
UESTC = {"images": ("images/*",), "suffix": ".bmp", "stem": "{}", "first": 0}
UESTC_TXT = {**UESTC, "truth": txt_at("coco_train.txt", "coco_val.txt"), "form": "txt"}
UESTC_COCO = {
    **UESTC,
    "truth": coco_at("json/instances_train.json", "json/instances_test.json"),
    "form": "coco",
}
OWN = {"images": ("*/images",)}

LAYOUTS = (
    Layout("NUDT-MIRSDT", "sequences first", **NUDT, lists=NUDT_LISTS),
    Layout("NUDT-MIRSDT", "images first", **MASKS, lists=PLAIN_LISTS, stem="{}", first=0),
    Layout(
        "NUDT-MIRSDT-Noise",
        "a version beside the clean set",
        images=(f"{NOISE}/*/images",),
        unread=("NUDT-MIRSDT/*/images",),
        masks=("NUDT-MIRSDT/*/masks",),
        centroids=("NUDT-MIRSDT/*/masks_centroid",),
        lists=tuple((f"{NOISE}/{path}", line) for path, line in NUDT_LISTS),
    ),
    Layout("Synthetic", "sequences first", **NUDT, lists=NUDT_LISTS),
    Layout(
        "IRDST-simulation",
        "bmp",
        **MASKS,
        lists=tuple((f"img_idx/{part}_IRDST-simulation.txt", "*") for part in ("train", "test")),
        suffix=".bmp",
        stem="{}",
    ),
    Layout(
        "IRSatVideo-LEO",
        "DeepPro's lists",
        **MASKS,
        lists=tuple((f"annotations/{part}_sequences.txt", "*") for part in ("train", "val")),
        stem="{:04d}",
    ),
    Layout(
        "IRSatVideo-LEO",
        "RFR's lists",
        **MASKS,
        lists=tuple((f"video_idx/{part}_IRSatVideo-LEO.txt", "*") for part in ("train", "test")),
        stem="{:04d}",
        first=0,
    ),
    Layout(
        "MWIRSTD", "jpg", **MASKS, lists=PLAIN_LISTS, suffix=".jpg", mask_suffix=".png", stem="{}", first=0
    ),
    Layout(
        "RGBT-Tiny",
        "thermal",
        images=("train2017/*/01", "test2017/*/01"),
        masks=("segmentations/*",),
        lists=PLAIN_LISTS,
        suffix=".jpg",
        mask_suffix=".png",
    ),
    Layout(
        "SatVideoIRSDT",
        "DeepPro's lists",
        images=("train/*/img", "val/*/img"),
        masks=("train/*/mask", "val/*/mask"),
        lists=(("train.txt", "*"), ("val.txt", "*")),
        stem="{:06d}",
    ),
    Layout(
        "SatVideoIRSDT",
        "DTUM's lists",
        images=("train/*/img", "val/*/img"),
        masks=("train/*/mask", "val/*/mask"),
        lists=tuple((f"{part}_list.txt", f"dataset/{part}/*/img/000001.png") for part in ("train", "val")),
        stem="{:06d}",
    ),
    Layout("TSIRMT", "LMAFormer", **MASKS, lists=(("train.txt", "*"), ("val.txt", "*"))),
    Layout("TSIRMT", "RPRNet", images=("*/images",), masks=("*/masks",), lists=PLAIN_LISTS),
    *(Layout(name, "txt lists", **UESTC_TXT) for name in ("DAUB", "ITSDT-15K", "IRDST")),
    *(Layout(name, "COCO", **UESTC_COCO) for name in ("DAUB", "ITSDT-15K", "IRDST")),
    Layout("Folder", "masks", images=("*/images",), masks=("*/masks",), lists=PLAIN_LISTS),
    Layout("Folder", "masks and centroids", **NUDT, suffix=".tif"),
    Layout("Folder", "points", **OWN, truth=points_text, form="points"),
    Layout("Folder", "boxes.csv", **OWN, truth=boxes_csv, form="csv"),
    Layout("Folder", "Pascal VOC", images=("images/*",), truth=voc, form="voc"),
    Layout("Folder", "COCO", images=("images/*",), truth=coco_at("annotations/boxes.json"), form="coco"),
    Layout("Folder", "txt list", images=("images/*",), truth=txt_at("boxes.txt"), form="txt"),
)


def all_layouts() -> tuple[Layout, ...]:
    """LAYOUTS. Raises AssertionError for a registered reader without one."""
    missing = set(DATASETS.names()) - {layout.reader for layout in LAYOUTS}
    assert not missing, f"write a layout of {', '.join(sorted(missing))} in {__file__}"
    return LAYOUTS
