"""The scenes in turn, told as they end; then one page that leads to the reports, and one picture of all."""

from pathlib import Path

import torch
from rich.console import Console

from fedspill.auditing import AuditResult, parse_plan, run_audit
from fedspill.auditing.watch import Listener
from fedspill.cli.demo.scenes import ABOUT, SETTINGS, Setting
from fedspill.core.tensor_files import write_whole
from fedspill.rendering.drawing.pictures import png
from fedspill.rendering.drawing.poster import Panel, poster
from fedspill.rendering.folder import pairs_of, write_views
from fedspill.rendering.index import Scene, write_index

PICTURE_FILE = "demo.png"


def run_demo(out: Path, listener: Listener, device: str, fresh: bool, console: Console) -> list[AuditResult]:
    """Audits every setting, says what came out, and writes a page and a picture of all.

    Args:
        console: for what is told; at most 80 letters a line.
    """
    torch.set_num_threads(1)  # these networks are too small to gain from more, and lose much on a busy machine
    _say(console, ABOUT)
    results, scenes, panels = list[AuditResult](), list[Scene](), list[Panel]()
    for setting in SETTINGS:
        _say(console, f"\n{setting.title}", "bold")
        _say(console, setting.lead)
        result, scene = _played(setting, out / setting.name, listener, device, fresh)
        _say(console, scene.result, "bold green")
        results.append(result)
        scenes.append(scene)
        panels.append(_panel(scene, setting.shown))
    write_index(out, scenes)
    write_whole(out / PICTURE_FILE, png(poster(panels)))
    return results


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False, width=min(80, console.width))


def _played(setting: Setting, folder: Path, listener: Listener, device: str, fresh: bool) -> tuple[AuditResult, Scene]:
    plan = parse_plan(setting.plan)
    result = run_audit(plan, out=folder, device=device, listener=listener, fresh=fresh, command="fedspill demo")
    report = write_views(folder, result.report, result.tensors)
    told = setting.tell(result, plan, device)
    return result, Scene(setting.name, setting.title, setting.lead, told, report, result.tensors)


def _panel(scene: Scene, shown: int) -> Panel:
    pairs = pairs_of(scene.report, scene.tensors)
    of = f" ({shown} of {len(pairs)} shown)" if len(pairs) > shown else ""
    return Panel(scene.title + of, scene.result, tuple(pairs[:shown]))
