"""The learning curve: one CSV row per look, and a drawing of it."""

import csv
from pathlib import Path

from halu.training import team


class Curve:
    """Appends (stage, step, pictures, metric, value) rows; `draw` makes the PNG next to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if team.leads() and not path.exists():
            path.write_text("stage,step,pictures,metric,value\n")

    def add(self, stage: str, step: int, pictures: int, **metrics: float) -> None:
        """Keep the values and print them on one line; only the leader does."""
        if not team.leads():
            return
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for name, value in metrics.items():
                writer.writerow([stage, step, pictures, name, f"{value:.4f}"])
        shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        print(f"{stage} step {step} pictures {pictures}  {shown}", flush=True)

    def rows(self) -> list[dict[str, str]]:
        """All rows so far."""
        with self.path.open() as file:
            return list(csv.DictReader(file))

    def draw(self, target: Path) -> None:
        """One panel a stage, one line a metric."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = self.rows()
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        figure, panels = pyplot.subplots(
            1, len(stages), figsize=(5 * len(stages), 3.6), squeeze=False
        )
        for panel, stage in zip(panels[0], stages, strict=True):
            part = [row for row in rows if row["stage"] == stage]
            for metric in dict.fromkeys(row["metric"] for row in part):
                line = [row for row in part if row["metric"] == metric]
                panel.plot(
                    [int(r["pictures"]) for r in line],
                    [float(r["value"]) for r in line],
                    label=metric,
                )
            panel.set_title(stage)
            panel.set_xlabel("pictures seen")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(target, dpi=90, metadata={"Software": None})
        pyplot.close(figure)
