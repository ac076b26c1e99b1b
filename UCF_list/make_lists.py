"""Class indices and split lists: UCF101's own, of a subset of its classes, or of a folder of videos.

python -m UCF_list.make_lists                                    # the ten files beside this script
python -m UCF_list.make_lists --classes Archery,Diving --split 05
python -m UCF_list.make_lists --videos my_videos --out my_lists
"""

import difflib
import re
import sys
from pathlib import Path

try:
    from common.atomic import atomic_write
    from common.cli import ArgumentParser, UserError, run
    from dataloader.own_videos import choose_test_groups, find_videos, group_of
except ModuleNotFoundError:
    sys.exit("error: run it in the project's folder as a module: python -m UCF_list.make_lists")

HERE = Path(__file__).resolve().parent
TEST_GROUPS = {"01": range(1, 8), "02": range(8, 15), "03": range(15, 22)}
SUBSET_SPLIT = "04"
SUBSET = (
    "Archery,BaseballPitch,BodyWeightSquats,CliffDiving,Diving,FloorGymnastics,GolfSwing,JumpingJack,JumpRope,"
    "Lunges,MoppingFloor,PullUps,Skiing,TaiChi,WallPushups"
)
# Clips of each class in groups 1 to 25, one digit a group; a class's clips are numbered from 1 without gaps.
CLIPS = """
ApplyEyeMakeup 6467777575566575554655677  ApplyLipstick 5445554444454455544557454
Archery 7755566577747475474745767  BabyCrawling 4644566465466466565747466
BalanceBeam 4444474444445444644454544  BandMarching 7774747777765677467665667
BaseballPitch 6475777775547476775447777  Basketball 7664444455554576457767647
BasketballDunk 7464646555554776764644554  BenchPress 6777777774577765776747577
Biking 4745756646646455664775474  Billiards 6757654675777775577475467
BlowDryHair 4555577747764554554564744  BlowingCandles 4445574444464444444444446
BodyWeightSquats 4454454475444444444644457  Bowling 7474777777746574757767775
BoxingPunchingBag 7777777774574777467777777  BoxingSpeedBag 4457557574657675745544547
BreastStroke 4444444444444444454444444  BrushingTeeth 4754556645464544575547677
CleanAndJerk 5465445444474644444644444  CliffDiving 6454776467674744577746554
CricketBowling 7745454574765567567567447  CricketShot 7777777777777777655767577
CuttingInKitchen 5445654447444444444444446  Diving 7777674677677475444776674
Drumming 7757667547777677767774777  Fencing 6555544465554444444444444
FieldHockeyPenalty 5647774457464764444444456  FloorGymnastics 5445477475464564674554445
FrisbeeCatch 6555556556454546556656444  FrontCrawl 4467457565744744774766764
GolfSwing 6476745644744444766766777  Haircut 4465446677544445456747774
Hammering 4455465477457774776477674  HammerThrow 6777675677677654557557745
HandstandPushups 4444444544677467574765547  HandstandWalking 4445746444444444474444464
HeadMassage 5774675744774774775567747  HighJump 5746546554745445445545655
HorseRace 4456466544745445566554574  HorseRiding 7777777667774766667767677
HulaHoop 7455445564466556544745645  IceDancing 7767667767475646567777777
JavelinThrow 4444645445644666544444565  JugglingBalls 4675567564554544444446445
JumpingJack 7444675476447444447444447  JumpRope 4747556774755467574776576
Kayaking 6447474665744477675777664  Knitting 4556545457645575644444447
LongJump 7567545667666555556444444  Lunges 7444477446756744457454644
MilitaryParade 7444446575554574567444447  Mixing 7677765575776774444444444
MoppingFloor 4646545444444444664444444  Nunchucks 4676444756657464764464556
ParallelBars 4447576564644444444444444  PizzaTossing 4547454444544444445444765
PlayingCello 7747775677777477777757777  PlayingDaf 4747775757654776477777647
PlayingDhol 7777777777767746767477757  PlayingFlute 7777767776655676757465657
PlayingGuitar 6477577747777777777765747  PlayingPiano 4444444444444447644444444
PlayingSitar 4677767777744747777776774  PlayingTabla 4456444455455445464444445
PlayingViolin 4444444444444444444444444  PoleVault 5777554447575747777674777
PommelHorse 7445447444477444646747444  PullUps 4444444444444444444444444
Punch 5445777776777767777477777  PushUps 5445444444444444444444444
Rafting 4444444645445547645444444  RockClimbingIndoor 5574677747466545744677677
RopeClimbing 4644745445447555557444445  Rowing 4676445467677774746454556
SalsaSpin 7766656566664665444555454  ShavingBeard 4774777777466676777777776
Shotput 7765777776774477544445745  SkateBoarding 4645445547564464465545455
Skiing 6577474765447455446775465  Skijet 4444444444444444444444444
SkyDiving 4454545445444454564644444  SoccerJuggling 5646657474665747777657676
SoccerPenalty 6555776655576675454555664  StillRings 5474444446444444444474447
SumoWrestling 4444477744455444575444444  Surfing 7644444756475477744644444
Swing 5547777564644575444665554  TableTennisShot 6457764474544577447747777
TaiChi 4444444444444444444444444  TennisSwing 7777777677777777766666666
ThrowDiscus 4744577465765454574474555  TrampolineJumping 4645445466654456446546444
Typing 7674676777774744444744444  UnevenBars 4444444444444475444444444
VolleyballSpiking 4447547664647444444444444  WalkingWithDog 4655556565555445545744464
WallPushups 4454576555655557755674445  WritingOnBoard 7774677467646457574777777
YoYo 7565544565645446646466645
"""


def get_args_parser() -> ArgumentParser:
    """Command line of this script."""
    parser = ArgumentParser(
        description="Write class indices and split lists. Without arguments: the ten files of UCF101, whose split "
        "04 is split 01 limited to 15 classes."
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the lists; default: the one of this script, which --videos does not write to",
    )
    parser.add_argument(
        "--split", help="number of the split to write: of --classes any but 01 to 04, of --videos 01 unless given"
    )
    subset = parser.add_argument_group("another subset of UCF101's classes")
    subset.add_argument(
        "--classes",
        help="names with commas between them, or a file with one a line; writes "
        "classInd_split<NN>.txt, trainlist<NN>.txt and testlist<NN>.txt",
    )
    subset.add_argument("--like", choices=sorted(TEST_GROUPS), default="01", help="split whose test groups to use")
    own = parser.add_argument_group(
        "own videos",
        "Each class is tested on about --test-fraction of its videos, at least one, and trained on the others, at "
        "least one. Videos of one group stay together: names that carry _gNN_, as UCF101's, are grouped by that "
        "number within their class; with --groups-from, what the expression captures is the group, and a group "
        "stays together across classes (a person, say, or a camera). A video without a group is one of its own. "
        "Groups go into the test list in an order that a hash of --seed and the group's name gives, if that "
        "brings their classes nearer to the fraction; so the same videos and seed give the same lists.",
    )
    own.add_argument(
        "--videos",
        type=Path,
        help="folder with one subfolder of videos per class; writes "
        "classInd.txt, trainlist<NN>.txt and testlist<NN>.txt to --out",
    )
    own.add_argument("--test-fraction", type=float, default=0.3, help="share of each class to test on")
    own.add_argument("--seed", type=int, default=0, help="another seed, another choice of groups")
    own.add_argument(
        "--groups-from",
        metavar="REGEX",
        help="regular expression, searched in each file name "
        "without its extension, whose first group (or the one named 'group') is the video's group",
    )
    return parser


# ---- UCF101 ----


def clip_counts() -> dict[str, list[int]]:
    """Number of clips of each UCF101 class, in the official order, in its groups 1 to 25."""
    words = CLIPS.split()
    return {name: [int(digit) for digit in digits] for name, digits in zip(words[::2], words[1::2], strict=True)}


def ucf101_lists(test_groups: range, chosen: list[str] | None = None) -> tuple[list[str], list[str]]:
    """Lines of a training and a test list, ordered by class, group and clip.

    `test_groups`: groups to test on, the others are trained on; `chosen`: classes, None for all 101.
    Training lines end with the class's number in the 101.
    """
    train, test = [], []
    for number, (name, counts) in enumerate(clip_counts().items(), 1):
        if chosen is not None and name not in chosen:
            continue
        file_stem = "HandStandPushups" if name == "HandstandPushups" else name  # as the data set spells it
        for group, clips in enumerate(counts, 1):
            paths = [f"{name}/v_{file_stem}_g{group:02d}_c{clip:02d}.avi" for clip in range(1, clips + 1)]
            if group in test_groups:
                test += paths
            else:
                train += [f"{path} {number}" for path in paths]
    return train, test


def make_ucf101_lists(out: Path) -> list[Path]:
    """Write the ten files of UCF101 to the folder `out` and return their paths."""
    written = [_write(out / "classInd.txt", _numbered(clip_counts()))]
    for split, groups in TEST_GROUPS.items():
        written += _write_lists(out, split, *ucf101_lists(groups))
    return written + make_subset_lists(out, SUBSET.split(","), SUBSET_SPLIT, "01", "classInd15.txt")


def make_subset_lists(out: Path, chosen: list[str], split: str, like: str, index: str) -> list[Path]:
    """Write class index `index` and the lists of the UCF101 classes `chosen`; return the paths.

    `like`: the official split whose test groups are used. Classes are numbered from 1 in UCF101's order.
    Raises `UserError` for an unknown class or one that is given twice.
    """
    known = clip_counts()
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "see classInd.txt for the names"
            raise UserError(f"--classes: UCF101 has no class {name!r}; {hint}")
        if chosen.count(name) > 1:
            raise UserError(f"--classes: {name} is given twice; give it once")
    lists = ucf101_lists(TEST_GROUPS[like], chosen)
    return [_write(out / index, _numbered(name for name in known if name in chosen)), *_write_lists(out, split, *lists)]


def read_classes(text: str) -> list[str]:
    """Class names from `A,B,C`, or from a file with one a line, numbered or not."""
    path = Path(text)
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{path}: not a text file; expected one class name a line") from None
        names = [re.sub(r"^\s*\d+\s+", "", line).strip() for line in lines]
    else:
        names = [name.strip() for name in text.split(",")]
    names = [name for name in names if name]
    if not names:
        raise UserError(f"--classes {text!r}: no class names in it; give names with commas between them, or a file")
    return names


# ---- own videos ----


def make_own_lists(
    videos: str | Path,
    out: str | Path,
    split: str = "01",
    test_fraction: float = 0.3,
    seed: int = 0,
    groups_from: str | None = None,
) -> list[Path]:
    """Write classInd.txt, trainlist<split>.txt and testlist<split>.txt of a folder of class folders.

    The rule is in `--help`. Returns the three paths; raises `UserError` and writes nothing if a class has no
    training or no test video, or if a name cannot be told from another or cannot stand in a list.
    """
    if not 0 < test_fraction < 1:
        raise UserError(f"--test-fraction {test_fraction}: must lie between 0 and 1, such as 0.3")
    if Path(out).resolve() == HERE:
        raise UserError(f"--out {out}: holds UCF101's lists; give another folder")
    found = find_videos(Path(videos))
    groups = {(name, file): group_of(name, file, groups_from) for name, files in found.items() for file in files}
    test_groups = choose_test_groups(groups, test_fraction, seed)
    for name in found:
        in_test = {groups[name, file] in test_groups for file in found[name]}
        if len(in_test) < 2:
            lone = len({groups[name, file] for file in found[name]}) == 1
            why = (
                f"its {len(found[name])} video(s) form one group"
                if lone
                else "no choice of groups was found that gives each class both; try another --seed"
            )
            raise UserError(
                f"class {name!r}: no {'training' if True in in_test else 'test'} video left, for {why}; "
                "each class needs at least 2 groups, one to train and one to test on"
            )
    train, test = [], []
    for number, (name, files) in enumerate(found.items(), 1):
        train += [f"{name}/{file} {number}" for file in files if groups[name, file] not in test_groups]
        test += [f"{name}/{file}" for file in files if groups[name, file] in test_groups]
    out = Path(out)
    return [_write(out / "classInd.txt", _numbered(found)), *_write_lists(out, split, train, test)]


def _numbered(names) -> list[str]:
    return [f"{number} {name}" for number, name in enumerate(names, 1)]


def _write_lists(out: Path, split: str, train: list[str], test: list[str]) -> list[Path]:
    return [_write(out / f"trainlist{split}.txt", train), _write(out / f"testlist{split}.txt", test)]


def _write(path: Path, lines: list[str]) -> Path:
    with atomic_write(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def main(argv: list[str] | None = None) -> None:
    """Write the lists that the command line asks for and print their paths and lengths."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.split and not re.fullmatch(r"[0-9A-Za-z-]+", args.split):
        parser.error(f"--split {args.split!r}: expected a number such as 05")
    belongs = {"test_fraction": "videos", "seed": "videos", "groups_from": "videos", "like": "classes"}
    for option, owner in belongs.items():
        if getattr(args, option) != parser.get_default(option) and not getattr(args, owner):
            parser.error(f"--{option.replace('_', '-')} goes with --{owner}")
    if args.videos and args.classes:
        parser.error("--videos and --classes exclude each other")
    if args.videos:
        if args.out is None:
            parser.error("--videos needs --out FOLDER")
        written = make_own_lists(
            args.videos, args.out, args.split or "01", args.test_fraction, args.seed, args.groups_from
        )
    elif args.classes:
        if args.split in (None, *TEST_GROUPS, SUBSET_SPLIT):
            parser.error("--classes needs a --split of its own, such as 05; 01 to 04 are taken")
        written = make_subset_lists(
            args.out or HERE, read_classes(args.classes), args.split, args.like, f"classInd_split{args.split}.txt"
        )
    elif args.split:
        parser.error("--split goes with --classes or --videos")
    else:
        written = make_ucf101_lists(args.out or HERE)
    for path in written:
        print(f"{path}: {path.read_bytes().count(10)} lines")


if __name__ == "__main__":
    run(main)
