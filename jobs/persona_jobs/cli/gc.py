"""`persona gc`: the results in a store that nobody uses."""

from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.filesize import decimal

from ..pipeline.unused import remove_unused, unused_results
from ..store import open_store


def collect_garbage(url: str, *, hours: float, keep_revisions: int | None, remove: bool) -> None:
    """Print the results that nobody uses, and remove them where asked to.

    Args:
        url: the artifact store.
        hours: results younger than that stay.
        keep_revisions: revisions of each persona that count, from the newest one; None for all.
        remove: whether to remove them.

    Raises:
        PersonaError: the URL is wrong, or the store can't be read or written.
    """
    console = Console(highlight=False, soft_wrap=True)
    store = open_store(url)
    before = datetime.now(UTC) - timedelta(hours=hours)
    results = unused_results(store, before=before, keep_revisions=keep_revisions)
    if remove:
        results = remove_unused(store, results, keep_revisions=keep_revisions)
    for item in results:
        made = f"{item.created_at.astimezone(UTC):%Y-%m-%d %H:%M}"
        console.print(f"{item.stage:<10} {item.key}  {made}  {decimal(item.size):>9}")
    count = "1 result" if len(results) == 1 else f"{len(results)} results"
    total = f"{count}, {decimal(sum(item.size for item in results))}"
    if remove:
        console.print(f"{total}: removed.")
    elif results:
        console.print(f"{total}: used by nobody. Add --remove to remove them.")
    else:
        console.print(f"Every result in {store.url} is used, or younger than {hours:g} hours.")
