"""`make demo`: the main job on the built-in model, from a picture to a report.

    python examples/demo.py [--picture FILE.png] [--limit N]

Describes a shipped picture under plain decoding and two strategies, marks what is not in it, writes
a page that shows where each word looked, then runs a short POPE with intervals.
"""

import argparse
import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.text import Text

from halu.cli.models import load_quietly
from halu.eval.backends import ready
from halu.eval.chair import score_caption
from halu.eval.console import show
from halu.eval.lexicon import words_rules
from halu.eval.plan import Arm, Plan, Source
from halu.eval.report import report
from halu.eval.run import run
from halu.images import open_image
from halu.trace_page import write
from halu.vlm import VLM

MODEL = "tiny-llava"
STRATEGIES = ("vcd", "vhr")
PROMPT = "Please describe this image in detail."
HERE = Path(__file__).parent
OUT = Path("runs/demo")

console = Console(highlight=False)


def describe(vlm: VLM, picture: Path) -> None:
    """The picture described under each strategy, wrong words in red."""
    truth = json.loads(picture.with_suffix(".json").read_text())["objects"]
    console.rule(f"[bold]{picture.name}[/] shows {', '.join(truth)}")
    console.print(f'{vlm.name} is asked: "{PROMPT}"\n')
    for name in ("greedy", *STRATEGIES):
        answer = vlm.ask(picture, PROMPT, strategy=name, evidence="map", max_new_tokens=96)
        score = score_caption(answer.text, truth, words_rules())
        text = Text(answer.text)
        wrong = sum(mark.wrong for mark in score.marks)
        for mark in score.marks:
            text.stylize("bold red" if mark.wrong else "green", mark.start, mark.stop)
        found = f"{wrong} not in the picture" if wrong else "nothing made up"
        console.print(Text.assemble((f"{name:>7}  ", "bold"), text, (f"   {found}", "dim")))
        page = OUT.with_name(f"demo-{name}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        write(page, open_image(picture), PROMPT, answer, vlm.name)
    console.print(f"\nWhere each word looked: {OUT.parent}/demo-greedy.html and beside it\n")


def measure(vlm: VLM, limit: int) -> None:
    """A short POPE, all strategies on the same questions."""
    console.rule("POPE on scenes the model has not seen (built-in world)")
    arms = tuple(Arm(strategy=name) for name in STRATEGIES)
    plan = Plan(
        models=(Source(name=MODEL),),
        benchmarks=("pope-scenes",),
        strategies=arms,
        limit=limit,
        batch_size=24,
        command="make demo",
    )
    shutil.rmtree(OUT, ignore_errors=True)
    with console.status("asking ..."):
        run(plan, ready(vlm.generate_each), OUT)
    show(report(OUT))
    console.print(f"The report, with pictures: {OUT / 'report.html'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, default=HERE / "pictures" / "scene.png")
    parser.add_argument("--limit", type=int, default=90, help="questions of each POPE split")
    options = parser.parse_args()
    vlm = load_quietly(MODEL)
    describe(vlm, options.picture)
    measure(vlm, options.limit)


if __name__ == "__main__":
    main()
