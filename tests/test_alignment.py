"""The frames, masks and boxes of a clip as one of them sees them, on videos of which all is known."""

import cv2
import numpy as np
import pytest
from moving import Camera, Target, moving_video

from dataset.alignment import Alignment
from utils.motion import moved
from utils.registration import warped

SIZE = (96, 128)
WHOLE = (slice(0, 96), slice(0, 128))
CAMERAS = {  # which see 0.9 of the middle one of 13 frames
    "pan": Camera((0.6, -0.35)),
    "zoom": Camera(zoom=1.004),
    "rotation": Camera(turn=0.25),
    "all": Camera((0.3, -0.2), 0.1, 1.001, (3e-6, -2e-6), 0.2),
}


def aligned(video, reference: int = 6, mode: str = "auto", area=WHOLE) -> Alignment:
    found = Alignment.measured(video.frames, reference, mode, area)
    assert found is not None
    return found


def true_homographies(video, reference: int) -> list[np.ndarray]:
    """From the reference to each frame."""
    poses = [np.eye(3)]
    for step in video.homographies[1:]:
        poses.append(step @ poses[-1])
    return [pose @ np.linalg.inv(poses[reference]) for pose in poses]


def sees(homography: np.ndarray, shape: tuple[int, int] = SIZE, margin: float = 0) -> np.ndarray:
    """Which pixels a homography takes into a frame, at least `margin` pixels from its border, bool [H, W]."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    x, y = moved(np.stack([cols.ravel(), rows.ravel()], axis=1), homography).T
    inside = (x >= margin) & (x <= shape[1] - 1 - margin) & (y >= margin) & (y <= shape[0] - 1 - margin)
    return inside.reshape(shape)


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference.astype(np.float64)))))


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("reference", [0, 6, 12])
@pytest.mark.parametrize("name", CAMERAS)
def test_aligned_frames_are_what_the_reference_sees(name, reference):
    video = moving_video(13, SIZE, CAMERAS[name], noise=0.5, seed=3)
    found = aligned(video, reference, "on")
    frames = found.frames(video.frames)
    assert frames.dtype == np.uint8 and np.array_equal(frames[reference], video.frames[reference])
    reference_seen = video.frames[reference].astype(float)
    for place, homography in enumerate(true_homographies(video, reference)):
        seen = sees(homography, margin=3)
        left = rms((frames[place] - reference_seen)[seen])
        assert left < 1.6  # of which noise is 0.7, and interpolation
        if abs(place - reference) > 4:
            assert left < 0.4 * rms((video.frames[place] - reference_seen)[seen])


def test_what_a_frame_does_not_see_has_the_pixels_of_the_next_one_towards_the_reference():
    video = moving_video(13, SIZE, Camera((0.9, 0.0)), noise=0.5, seed=3)
    frames = aligned(video, mode="on").frames(video.frames)
    homographies = true_homographies(video, 6)
    for place in (*range(6), *range(7, 13)):
        nearer = place + (1 if place < 6 else -1)
        unseen = ~sees(homographies[place], margin=0)
        assert unseen.any() == (abs(homographies[place][0, 2]) > 0)
        assert np.array_equal(frames[place][unseen], frames[nearer][unseen])
    ends = frames[0].astype(float) - video.frames[6], frames[12].astype(float) - video.frames[6]
    assert max(rms(end) for end in ends) < 1.6  # also where they see nothing of it


def test_frames_of_sixteen_bit_and_of_fractions_are_aligned_as_they_are():
    eight, sixteen = (
        moving_video(13, SIZE, CAMERAS["pan"], noise=0.3, sixteen_bit=deep, seed=3) for deep in (False, True)
    )
    frames = aligned(sixteen).frames(sixteen.frames)
    assert frames.dtype == np.uint16 and rms(frames / 64 - sixteen.frames[6] / 64) < 1.2
    fractions = eight.frames.astype(np.float32) + np.float32(0.25)  # such as simulated frames
    found = Alignment.measured(fractions, 6, "auto", WHOLE)
    assert found.frames(fractions).dtype == np.float32
    assert rms(found.frames(fractions) - fractions[6]) < 1.2


def test_the_border_of_a_letterbox_stays_and_does_not_mislead():
    video = moving_video(13, SIZE, CAMERAS["pan"], noise=0.5, seed=3)
    boxed = np.full((13, 128, 128), 128, np.uint8)
    area = (slice(16, 112), slice(0, 128))
    boxed[:, area[0], area[1]] = video.frames
    found, plain = (
        Alignment.measured(boxed, 6, "auto", area),
        Alignment.measured(video.frames, 6, "auto", WHOLE),
    )
    assert np.array_equal(found.homographies, plain.homographies)
    frames = found.frames(boxed)
    assert np.array_equal(frames[:, area[0], area[1]], plain.frames(video.frames))
    assert (frames[:, :16] == 128).all() and (frames[:, 112:] == 128).all()


# ---------------------------------------------------------------- where there is none


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_frames_that_all_are_the_same_are_not_aligned(mode):
    video = moving_video(13, SIZE, Camera(), noise=0, seed=3)
    assert Alignment.measured(video.frames, 6, mode, WHOLE) is None
    assert Alignment.measured(video.frames[:1], 0, mode, WHOLE) is None


def test_a_camera_that_stands_still_needs_none():
    video = moving_video(13, SIZE, Camera(), [Target((40, 40), (1.5, 1.0), 90)], noise=3, seed=3)
    assert Alignment.measured(video.frames, 6, "auto", WHOLE) is None


def test_off_and_an_unknown_word_align_nothing():
    video = moving_video(13, SIZE, CAMERAS["pan"], seed=3)
    assert Alignment.measured(video.frames, 6, "off", WHOLE) is None


def test_noise_is_not_aligned():
    noise = np.random.default_rng(0).integers(0, 255, (13, *SIZE), dtype=np.uint8)
    assert Alignment.measured(noise, 6, "auto", WHOLE) is None


def test_clouds_that_change_as_they_move_are_not_aligned():
    """Two layers move against each other: whatever follows one of them leaves the other."""
    one, other = (
        moving_video(25, SIZE, Camera(shift), noise=1, seed=seed).frames.astype(np.float32)
        for shift, seed in (((1.2, 0.0), 1), ((-1.0, 0.9), 2))
    )
    clouds = ((one + other) / 2).astype(np.uint8)
    assert Alignment.measured(clouds, 12, "auto", WHOLE) is None


@pytest.mark.parametrize(
    ("shift", "accepted"),
    [(0.6, {"auto", "on"}), (1.8, {"auto", "on"}), (2.5, {"on"}), (11.0, {"on"}), (14.0, set())],
)
def test_how_much_of_the_reference_a_frame_has_to_see(shift, accepted):
    video = moving_video(25, SIZE, Camera((shift, 0.0)), noise=1, seed=3)
    frames = video.frames[:13]
    share = 1 - 6 * shift / 128  # that the first one sees
    assert {word for word, least in (("auto", 0.9), ("on", 0.4)) if share >= least} == accepted
    for mode in ("auto", "on"):
        assert (Alignment.measured(frames, 6, mode, WHOLE) is not None) == (mode in accepted)


def test_frames_of_two_scenes_are_not_aligned():
    for camera in (CAMERAS["pan"], Camera((0.2, 0.1))):
        scenes = [moving_video(10, SIZE, camera, seed=seed).frames for seed in (1, 2)]
        assert Alignment.measured(scenes[0], 5, "on", WHOLE) is not None
        for first in range(3, 9):
            frames = np.concatenate([scenes[0][:first], scenes[1]])
            assert Alignment.measured(frames, 5, "on", WHOLE) is None


# ---------------------------------------------------------------- defects


def test_hot_pixels_are_replaced_where_the_camera_moved():
    clean, hot = (
        moving_video(17, SIZE, Camera((1.6, -0.2)), noise=0.5, hot_pixels=n, seed=3) for n in (0, 12)
    )
    still = moving_video(17, SIZE, Camera(), noise=0.5, hot_pixels=12, seed=3)
    found = aligned(hot, 8, "on")
    pixels = tuple(hot.hot_pixels.T)
    assert set(map(tuple, hot.hot_pixels)) <= set(zip(*found.defects, strict=True))
    frames, expected = found.frames(hot.frames), aligned(clean, 8, "on").frames(clean.frames)
    inner = np.s_[:, 3:-3, 15:-15]
    assert np.abs(frames[8][pixels].astype(int) - clean.frames[8][pixels]).max() < 15
    assert rms(frames[inner].astype(float) - expected[inner]) < 1.5
    assert Alignment.measured(still.frames, 8, "auto", WHOLE) is None
    clip = hot.frames[6:11]  # too few views to tell
    assert Alignment.measured(clip, 2, "on", WHOLE).defects is None


# ---------------------------------------------------------------- truth


@pytest.mark.parametrize("name", CAMERAS)
def test_masks_and_boxes_lie_where_the_aligned_frames_show_the_targets(name):
    targets = [Target((60, 50), (0.7, -0.4), 100), Target((80, 40), (-0.5, 0.5), 100)]
    plain, video = (moving_video(13, SIZE, CAMERAS[name], t, noise=0, seed=3) for t in ((), targets))
    masks, boxes = np.zeros((13, *SIZE), np.uint8), []
    for mask, places in zip(masks, video.places, strict=True):
        for x, y in np.rint(places).astype(int):
            mask[y - 1 : y + 2, x - 1 : x + 2] = 1
        boxes.append(np.hstack([places - 1, places + 2]))
    found = aligned(video)
    every = tuple(range(13))
    light = found.frames(video.frames).astype(float) - found.frames(plain.frames)
    masks_found, boxes_found = found.masks(masks, every), found.boxes(boxes, every)
    assert masks_found.dtype == np.uint8 and set(np.unique(masks_found)) == {0, 1}
    for number, (mask, frame_boxes) in enumerate(zip(masks_found, boxes_found, strict=True)):
        back = np.linalg.inv(true_homographies(video, 6)[number])
        true, drawn = moved(video.places[number], back), moved(np.rint(video.places[number]), back)
        count, _, statistics, centres = cv2.connectedComponentsWithStats(mask)
        assert count == 3 and ((statistics[1:, 4] >= 9) & (statistics[1:, 4] <= 12)).all()
        for (x, y), place in zip(true, drawn, strict=True):
            assert np.abs(centres[1:] - place).max(axis=1).min() < 0.75  # masks are of whole pixels
            row, col = round(y), round(x)
            assert light[number][row - 1 : row + 2, col - 1 : col + 2].max() > 50
        np.testing.assert_allclose((frame_boxes[:, :2] + frame_boxes[:, 2:]) / 2 - 0.5, true, atol=0.35)
        np.testing.assert_allclose(frame_boxes[:, 2:] - frame_boxes[:, :2], 3)
    assert np.array_equal(masks_found[6], masks[6]) and np.array_equal(boxes_found[6], boxes[6])
    key = found.masks(masks[6:7], (6,)), found.boxes(boxes[6:7], (6,))
    assert np.array_equal(key[0][0], masks[6]) and np.array_equal(key[1][0], boxes[6])


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


@pytest.mark.parametrize(
    ("homography", "most"),
    [
        (shift(0.45, 0.45), 1),
        (shift(-3.6, 2.25), 1),
        (np.diag([1.3, 1.3, 1.0]), 1),
        (np.diag([0.8, 0.8, 1.0]), 4),
    ],
    ids=["half", "shift", "smaller", "larger"],
)
def test_no_target_of_one_pixel_vanishes(homography, most):
    found = Alignment(0, [np.eye(3), homography], None, WHOLE)
    draw = np.random.default_rng(0)
    for place in draw.integers((20, 20), (70, 90), (40, 2)):
        masks = np.zeros((2, *SIZE), np.uint8)
        masks[1][tuple(place)] = 1
        ((row, col),) = moved(place[None, ::-1], np.linalg.inv(homography))[:, ::-1]
        there = np.argwhere(found.masks(masks, (0, 1))[1])
        assert 1 <= len(there) <= most and np.abs(there - (row, col)).max() <= 1


def test_the_mask_has_what_the_frame_is_given_of_its_neighbour():
    """A target where a frame does not see is shown as the next frame has it, and so is its mask."""
    found = Alignment(0, [np.eye(3), shift(2, 0), shift(9, 0)], None, WHOLE)
    frames = np.full((3, *SIZE), 50, np.uint8)
    frames[1, 40, 124] = 200  # at column 122 of the reference, which is beyond the last frame
    masks = (frames > 100).astype(np.uint8)
    shown, marked = found.frames(frames), found.masks(masks, (0, 1, 2))
    for number in (1, 2):
        assert np.argwhere(shown[number] > 100).tolist() == [[40, 122]]
        assert np.argwhere(marked[number]).tolist() == [[40, 122]]


def test_boxes_that_the_reference_does_not_see_are_left_out_and_others_cut():
    area = (slice(10, 90), slice(4, 124))
    found = Alignment(0, [np.eye(3), shift(10, 0)], None, area)
    boxes = np.array([[5, 20, 9, 24], [12, 20, 18, 24], [112, 20, 118, 24.5]], float)
    own, other = found.boxes([boxes, boxes], (0, 1))
    assert np.array_equal(own, boxes)
    assert other.tolist() == [[4, 20, 8, 24], [102, 20, 108, 24.5]]


# ---------------------------------------------------------------- and back


@pytest.mark.parametrize("name", CAMERAS)
def test_maps_come_back_to_the_frames(name):
    video = moving_video(13, SIZE, CAMERAS[name], noise=0, seed=3)
    found = aligned(video)
    smooth = np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 2) for frame in video.frames])
    maps = np.stack([warped(frame, one) for frame, one in zip(smooth, found.homographies, strict=True)])
    outside = np.full_like(maps, -1)
    back, alone = found.back(maps, outside), found.back(maps)
    for number, homography in enumerate(true_homographies(video, 6)):
        inverse = np.linalg.inv(homography)
        seen, near = sees(inverse, margin=3), sees(inverse, margin=-2)
        assert np.abs(back[number] - smooth[number])[seen].max() < 3
        assert (back[number][~near] == -1).all() and (alone[number][~near] == 0).all()
        assert np.array_equal(alone[number][seen], back[number][seen])
    assert np.array_equal(back[6], maps[6]) and (outside == -1).all()


def test_a_map_is_of_the_picture_alone():
    """Beyond the picture of a letterbox, and in what pads it, there is nothing to bring back."""
    area = (slice(8, 24), slice(4, 28))
    found = Alignment(1, [shift(2, 1), np.eye(3)], None, area)
    maps = np.ones((2, 40, 32), np.float32)
    back = found.back(maps, np.full((2, 40, 32), 7, np.float32))
    expected = np.full((2, 40, 32), 7)
    expected[0, 9:24, 6:28] = 1  # the reference ends where the frame begins
    expected[1, 8:24, 4:28] = 1
    assert np.array_equal(back, expected)


def test_whether_the_reference_sees_all_of_every_frame():
    larger, smaller = (shift(64, 48) @ np.diag([s, s, 1.0]) @ shift(-64, -48) for s in (1.1, 0.9))
    for homography, sees_all in (
        (np.eye(3), True),
        (larger, True),
        (smaller, False),
        (shift(1, 0), False),
    ):
        assert Alignment(0, [np.eye(3), homography], None, WHOLE).sees_all == sees_all
