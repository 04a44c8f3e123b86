"""The example bodies that the five services print in their documents; see tests/data/seeds/README.md."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "seeds"


def printed(name: str) -> str:
    """Return one example, such as `rotor.order.finalized`, as it is printed."""
    return (FOLDER / f"{name}.json").read_text("utf-8")


ROTOR = printed("rotor.order.finalized")
ROUGHY = printed("roughy.cut.completed")
VIDEOAIDITOR = printed("videoaiditor.render.completed")
WOCHIT = tuple(
    printed(f"wochit.{type}") for type in ("video.ready", "video.delete", "draft.new", "draft.update", "draft.delete")
)
EDITFRAME = tuple(
    printed(f"editframe.{topic}")
    for topic in (
        *("render.created", "render.completed", "render.failed"),
        *("file.created", "file.ready", "webhook.test"),
    )
)
