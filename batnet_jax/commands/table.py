"""Every command with its flags and its help, as plain data that imports no package.

The flags of the long form, the arguments of `batnet COMMAND`, the help and the completion follow
from this table. A mode's `run` takes the value of each of its flags by the flag's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["text", "path", "switch", "number", "list"]


@dataclass(frozen=True)
class Option:
    """A flag.

    Attributes:
      name: without dashes, words joined by `_`.
      help: the meaning, without a full stop.
      kind: the type of the value. A `switch` is on or off; a `list` has commas.
      default: the value without the flag; None = no value.
      choices: the allowed values; empty = any.
      least, most: the limits of a number; None = no limit.
      shown: the value in the help, such as FILE.
    """

    name: str
    help: str
    kind: Kind = "text"
    default: Any = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    shown: str = ""

    def saying(self, help: str, shown: str = "") -> "Option":
        """Return the same flag with a command's own help."""
        return replace(self, help=help, shown=shown or self.shown)

    @property
    def value_shown(self) -> str:
        """The value in the help; "" for a switch."""
        names = {"path": "PATH", "number": "N", "list": "A,B", "switch": "", "text": "TEXT"}
        return self.shown or "|".join(self.choices) or names[self.kind]


@dataclass(frozen=True)
class Command:
    """A command: its help, its arguments and flags, and the source of its settings.

    Attributes:
      help: a sentence for the list of all commands.
      module: the mode's file in `batnet_jax.modes`; "" = the command is not a mode.
      words: the arguments without a flag, in their order: names of `needs` and `takes`, or `RUN`,
        `RUNS` (any number) and `DATA`.
      needs: flags that the command cannot do without.
      takes: its other flags.
      settings: where the settings come from: `config` = from --config alone; `saved` = from the
        workdir's last checkpoint unless --config is given; `source` = from the file of weights
        --source unless --config is given; `runs` = from several runs; `none` = the command reads
        neither settings nor a workdir.
      keeps: the command writes to the workdir, or reads more of it than checkpoints. If the user
        gives a file of weights in place of a workdir, the file is imported first.
      shared: several processes can run the command together, and the workdir may be in a bucket.
      resumes: the command resumes from its last checkpoint when it is started again.
      tests: the command opens the data sets that the settings name.
      on_cpu: the command computes on this machine's CPU, and looks for no accelerator.
      examples: command lines for the help.
    """

    help: str
    module: str = ""
    words: tuple[str, ...] = ()
    needs: tuple[Option, ...] = ()
    takes: tuple[Option, ...] = ()
    settings: Literal["config", "saved", "source", "runs", "none"] = "config"
    keeps: bool = False
    shared: bool = False
    resumes: bool = False
    tests: bool = False
    on_cpu: bool = False
    examples: tuple[str, ...] = ()

    @property
    def options(self) -> Mapping[str, Option]:
        """The command's own flags by name."""
        return {option.name: option for option in (*self.needs, *self.takes)}


RUN, RUNS, DATA = "RUN", "RUNS", "DATA"
WORDS = {
    RUN: "the workdir of a run, a checkpoint, or a file of weights",
    RUNS: "two or more workdirs; the first is compared with the others",
    DATA: "a folder, .zip or .tar of images, a .csv of them, or the name of a config",
}
"""The meaning of the arguments that no flag of a command declares."""

OUTPUT = Option("output", "the file to write", "path", shown="FILE")
QUERY = Option("query", "an image, or a folder or a list of images", "path")
GALLERY = Option(
    "gallery",
    "what embed wrote, or a folder or a list of images; separate several by commas",
    "path",
    shown="PATH,PATH",
)
INDEX = Option(
    "index",
    "the kind of index that --faiss writes; auto chooses by the number of images",
    default="auto",
    choices=("auto", "flat", "hnsw", "ivfpq"),
)
IMAGES = Option("images", "a folder of images, a list with a path a line, or a table", "path")
WHERE = Option(
    "where",
    "search only the images that pass, such as 'camera=3 and time>2024-01-01'",
    shown="FILTER",
)
ACCEPT = Option(
    "accept",
    "list only hits above a threshold: a score (0.6 or score=0.6), a false accept rate of pairs "
    "(far=0.001 or 0.1%), or a false alarm rate of queries (alarm=0.01)",
    shown="SCORE|far=RATE|alarm=RATE",
)
AP = ("precision", "trapezoid")
SAME_CAMERA = ("remove", "keep")

COMMANDS: dict[str, Command] = {
    "train": Command(
        "Prepares the data if needed, trains or resumes, evaluates.",
        module="train",
        words=(DATA,),
        takes=(
            Option("dry_run", "say what would be done; train and write nothing", "switch", False),
        ),
        shared=True,
        resumes=True,
        examples=("batnet train people/", "batnet train --config=msmt17 --workdir=runs/mine"),
    ),
    "eval": Command(
        "Restores a checkpoint (config.eval.step; 0 = latest, -1 = best) and evaluates it.",
        module="eval",
        words=(RUN,),
        settings="saved",
        tests=True,
        keeps=True,
        shared=True,
        examples=("batnet eval runs/people --config.eval.rerank=True",),
    ),
    "report": Command(
        "Evaluates a checkpoint; shows its rankings, attention and training in report/index.html.",
        module="report",
        words=(RUN,),
        settings="saved",
        tests=True,
        keeps=True,
        examples=("batnet report runs/people",),
    ),
    "embed": Command(
        "Writes the features of images to a file, or to a folder of shards.",
        module="embed",
        words=(RUN, "images", "output"),
        needs=(
            OUTPUT.saying(
                "the file to write; or a folder, which several processes can fill, and which the "
                "same command completes after an interruption",
                "F.npz|parquet|DIR",
            ),
        ),
        takes=(
            IMAGES,
            Option("skip_unreadable", "leave out images that cannot be read", "switch", False),
            Option("append", "keep the file's images; add those that it lacks", "switch", False),
            Option(
                "update",
                "embed images that are new or have changed, and remove those that are gone",
                "switch",
                False,
            ),
            Option(
                "remove", "remove these images from the file; no --images", shown="PATTERN|LIST"
            ),
            Option(
                "shard",
                "embed every N-th shard of a folder, starting at I (0 to N-1); N processes share "
                "the work",
                shown="I/N",
            ),
            Option(
                "shard_images",
                "how many images a shard of a folder holds; default: by the length of the list",
                "number",
                least=1,
            ),
        ),
        settings="saved",
        shared=True,
        examples=(
            "batnet embed runs/people photos photos.npz",
            "batnet embed runs/people photos photos.npz --update",
            "batnet embed runs/people photos gallery/",
            "batnet embed osnet_x1_0_msmt17.pth photos photos.npz",
        ),
    ),
    "search": Command(
        "Ranks a gallery by similarity to query images.",
        module="search",
        words=(RUN, "query", "gallery"),
        needs=(GALLERY,),
        takes=(
            QUERY,
            Option("top", "length of a ranked list", "number", 10, least=1),
            OUTPUT.saying("the lists to write", "F.json|csv|jsonl"),
            Option("faiss", "the index of the gallery to write", "path", shown="FILE"),
            INDEX,
            Option("keep_own", "list the query's own file too", "switch", False),
            Option(
                "pool",
                "combine all images of --query, which show one person, into one query",
                default="none",
                choices=("none", "mean", "max"),
            ),
            ACCEPT,
            WHERE,
        ),
        settings="saved",
        examples=("batnet search runs/people me.jpg photos.npz --top=20",),
    ),
    "load": Command(
        "Loads what embed wrote into a database, for galleries larger than memory.",
        module="load",
        words=("gallery", "to"),
        needs=(
            Option(
                "to", "the database: lancedb: before a folder or an address", shown="lancedb:DIR"
            ),
        ),
        takes=(
            GALLERY.saying("what embed wrote; images of known paths are replaced"),
            INDEX.saying("the database's own index; auto = by the number of images"),
            Option("delete", "remove the images that pass a filter, such as path like 'old/*'"),
        ),
        settings="none",
        on_cpu=True,
        examples=(
            "batnet load photos.npz lancedb:photos",
            "batnet search runs/people me.jpg lancedb:photos",
        ),
    ),
    "serve": Command(
        "Serves a page to search a gallery with an image.",
        module="serve",
        words=(RUN, "gallery"),
        needs=(GALLERY,),
        takes=(
            Option("host", "the address to listen at", default="127.0.0.1"),
            Option("port", "0 = any free port", "number", 8000, least=0, most=65535),
            Option(
                "token",
                "the token that requests must send; default: the variable BATNET_TOKEN, or a "
                "random one if other machines can reach --host",
            ),
            Option("allow_host", "more host names to answer to", "list", shown="NAME,NAME"),
            ACCEPT,
        ),
        settings="saved",
        examples=("batnet serve runs/people photos.npz",),
    ),
    "export": Command(
        "Writes a checkpoint for other programs: .stablehlo, .onnx, .pth, .safetensors.",
        module="export",
        words=(RUN, "output"),
        needs=(OUTPUT.saying("the file to write; its suffix chooses the format"),),
        settings="saved",
        keeps=True,
        examples=("batnet export runs/people people.onnx",),
    ),
    "import": Command(
        "Makes a checkpoint from a file of weights.",
        module="import_weights",
        words=("source", "output"),
        needs=(
            Option("source", "a .pth, .pth.tar or .safetensors file", "path", shown="FILE"),
            OUTPUT.saying("the workdir to make", "DIR"),
        ),
        settings="source",
        examples=(
            "batnet import osnet_x1_0_msmt17.pth runs/osnet",
            "batnet import theirs.pth runs/theirs --config=market1501",
        ),
    ),
    "compare": Command(
        "Compares runs: settings, figures with intervals, curves.",
        module="compare",
        words=(RUNS,),
        needs=(Option("runs", WORDS[RUNS], "list", shown="DIR,DIR"),),
        takes=(
            Option("test", "the data set to compare on; default: the first of each run"),
            Option(
                "step",
                "compare the evaluations of this step; 0 = the latest of each run",
                "number",
                0,
                least=0,
            ),
            Option(
                "resample",
                "the unit that intervals and p-values resample",
                default="identity",
                choices=("identity", "query"),
            ),
            OUTPUT.saying("the comparison as JSON", "F.json"),
        ),
        settings="runs",
        examples=("batnet compare runs/people runs/people2",),
    ),
    "metrics": Command(
        "Measures features (.npz, .parquet, .mat, .npy with .csv) of any framework; needs no run.",
        module="metrics",
        words=("query", "gallery"),
        needs=(QUERY.saying("a file of features of the queries"),),
        takes=(
            GALLERY.saying("a file of features of the gallery", "PATH"),
            Option("distances", "an .npy of distances; QUERY and GALLERY then hold labels", "path"),
            Option(
                "metric",
                "how features are compared",
                default="cosine",
                choices=("cosine", "euclidean"),
            ),
            Option("ap", "the convention of average precision", default="precision", choices=AP),
            Option(
                "same_camera",
                "what to do with images of the query's own identity and camera",
                default="remove",
                choices=SAME_CAMERA,
            ),
            Option(
                "leave_out_own",
                "leave out each query's own image: the same path, or the same row of one file",
                "switch",
                False,
            ),
            Option(
                "resume",
                "keep the counts here, so that the same command continues after an interruption",
                "path",
                shown="F.npz",
            ),
            OUTPUT.saying("the figures as JSON", "F.json"),
        ),
        settings="none",
        examples=("batnet metrics query.npz gallery.npz",),
    ),
    "plan": Command(
        "Estimates the memory, time and cost of a training run on a TPU slice; needs no TPU.",
        module="plan",
        words=(DATA,),
        needs=(Option("slice", "v4-8, v5litepod-4, v5p-8, v6e-4 or the like", shown="TYPE"),),
        takes=(
            Option(
                "training_images",
                "the number of training images; default: read from the data set",
                "number",
                least=1,
            ),
            Option(
                "training_people",
                "the number of people in training; default: read from the data set",
                "number",
                least=1,
            ),
            Option("price", "the price of a chip for an hour, to print the cost", shown="PRICE"),
        ),
        on_cpu=True,
        examples=("batnet plan people/ --slice=v5litepod-4 --price=1.20",),
    ),
    "tables": Command(
        "Trains a network for each row of one of the paper's tables and each seed; resumes.",
        module="tables",
        needs=(Option("table", "the number of the table, 1 to 7", "number", least=1, most=7),),
        takes=(
            Option("seeds", "train each row with these; default config.seed", "list", shown="0,1"),
        ),
        resumes=True,
        examples=("batnet tables --config=msmt17 --table=4 --seeds=0,1",),
    ),
    "configs": Command("Lists the configs that come with the package.", settings="none"),
    "fields": Command("Lists the settings, with their meaning.", settings="none"),
    "weights": Command(
        "Lists the published weights that can be read; fetches a file of weights.",
        settings="none",
        examples=("batnet weights", "batnet weights get osnet_x1_0_msmt17 --to=weights"),
    ),
    "completion": Command(
        "Prints the script that makes a shell complete commands and settings.", settings="none"
    ),
}
MODES = {name: command for name, command in COMMANDS.items() if command.module}
"""The commands that `--mode` names, too."""


def all_options() -> dict[str, Option]:
    """Return the flags of all modes by name; a name has one type and one default."""
    return {n: o for command in reversed(MODES.values()) for n, o in command.options.items()}
