"""In which pixels predictions are compared with the truth: those of the files, or where a paper compares."""

from dataclasses import dataclass

from utils.recipe.schema import ViewSettings

Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Grid:
    """The pixels in which a protocol counts, and how predictions and truth get there.

    restore: "exact":   the pixels of the file, by the exact inverse of the way into the network
             "float32": the same pixels, from a letterbox by a rectangle that is computed in float32 (RPRNet)
             "rounded": the same pixels, boxes from a letterbox of rounded size (STMENet, SMFNet, SSTNet)
             "resized": those of the resized frames, to which masks are resized as well (TSMSA)
    crop:    (height, width) of which no more is counted, from the first row and column on; None: all
    column_quirk: whether masks that have been through the letterbox have RPRNet's defect (see dataset.view)
    """

    restore: str = "exact"
    crop: Size | None = None
    column_quirk: bool = False

    def text(self, view: ViewSettings) -> str:
        """The pixels in words, as tables name them: "counted at 512x512 (masks resized by nearest)"."""
        if self.restore == "resized":
            size = "x".join(map(str, view.test_resize or ("?", "?")))
            rows = f", in the first {self.crop[0]} rows and {self.crop[1]} columns" if self.crop else ""
            return f"counted at {size} (masks resized by {view.mask_resize}){rows}"
        ways = {
            "exact": "",
            "float32": "maps and masks back from the letterbox of {} by a rectangle in float32",
            "rounded": "boxes back from the letterbox of {} by rounded sizes (of maps, exactly)",
        }
        way = ways[self.restore].format(view.letterbox) if view.letterbox else ""
        quirk = "masks with RPRNet's column quirk" if self.column_quirk else ""
        return ", ".join(text for text in ("counted at the frames' size", way, quirk) if text)

    def misfit(self, view: ViewSettings) -> str:
        """Why nothing can be counted so by a recipe with this view; "" where it can."""
        if self.restore == "resized" and not view.test_resize:
            return (
                "its frames are not resized: set view.test_resize (published: (512,512)), or take another "
                "scoring.paper, such as BasicIRSTD"
            )
        return ""


EXACT = Grid()
