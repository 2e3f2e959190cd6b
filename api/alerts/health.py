"""What becomes news of monitoring: an alarm that begins to ring, and that it has been quiet again."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import quote

from api.alerts.news import in_all_languages
from api.console.words import Words
from engine.alerts.message import News, Text
from engine.alerts.outbox import KEPT_TRYING, tell
from engine.monitoring.alarms import alarm_of
from engine.monitoring.episodes import Episode, follow, lately_ended
from engine.monitoring.records import HealthReport
from engine.store.database import Database


def tell_health(
    database: Database, report: HealthReport, *, now: datetime, quiet_hours: float, link: str = ""
) -> list[Episode]:
    """Take a report into the episodes and write down what is new to be sent; return the episodes that last.

    Parameters
    ----------
    now
        Time of the messages; that of the report may be made up.
    """
    lasting, _ = follow(database, report, quiet=timedelta(hours=quiet_hours))
    # Not only what ended just now: a round may have been cut off between the end of an episode and its news.
    ended = lately_ended(database, report.placement, since=report.as_of - KEPT_TRYING)
    for episode in (*ended, *lasting):
        tell(database, news_of(episode, link=link), at=now)
    return lasting


def news_of(episode: Episode, *, link: str = "") -> News:
    """News of an episode: that it rings or that it is over, once each."""
    alarm = alarm_of(episode.alarm)
    is_over = episode.ended_at is not None

    def text(t: Words) -> Text:
        title = t("{placement}: {alarm}", placement=episode.placement, alarm=t(alarm.title))
        if is_over:
            return Text(t("{title}: over", title=title), t("The alarm has been quiet again.") + _address(link, episode))
        return Text(
            title,
            f"{episode.sentence}\n{t('What to do: docs/howto/alarms/{name}.md', name=alarm.name)}"
            + _address(link, episode),
        )

    word = "over" if is_over else "rings"
    return News(
        topic=f"alarm {episode.placement} {episode.alarm}",
        state=f"{word} since {episode.began_at.isoformat()}",
        kind=f"alarm.{word}",
        texts=in_all_languages(text),
        document={
            "placement": episode.placement,
            "alarm": episode.alarm,
            "family": alarm.family,
            "is_warning": alarm.is_warning,
            "began_at": episode.began_at.isoformat(),
            "sentence": episode.sentence,
        },
        is_all_clear=is_over,
    )


def _address(link: str, episode: Episode) -> str:
    return f"\n{link.rstrip('/')}/health?placement={quote(episode.placement, safe='')}" if link else ""
