"""What the demo saw, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from demo.chat import Turn

REPORT: Final = Path(__file__).resolve().parent.parent / "build" / "demo-report.json"


@dataclass(frozen=True)
class Phase:
    """All conversations held once. `reused_tokens` is what vLLM itself counted as loaded from outside."""

    name: str
    conversations: list[list[Turn]]
    reused_tokens: int

    @property
    def ttft_seconds(self) -> float:
        """Median over the conversations of the time to the first token of the first turn, the one with the document."""
        return statistics.median(turns[0].ttft_seconds for turns in self.conversations)

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        return [turn.token_ids for turns in self.conversations for turn in turns]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the first turn's prompts."""
        return sum(turns[0].prompt_tokens for turns in self.conversations)


@dataclass(frozen=True)
class Report:
    """The three phases: cold, after the engine's restart, after the pod's deletion."""

    cold: Phase
    restarted: Phase
    replaced: Phase

    @property
    def tokens_equal(self) -> bool:
        return self.cold.token_ids == self.restarted.token_ids == self.replaced.token_ids

    def write(self, path: Path = REPORT) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "ttft_cold_seconds": round(self.cold.ttft_seconds, 4),
            "ttft_after_engine_restart_seconds": round(self.restarted.ttft_seconds, 4),
            "ttft_after_pod_deletion_seconds": round(self.replaced.ttft_seconds, 4),
            "tokens_reused": self.restarted.reused_tokens + self.replaced.reused_tokens,
            "tokens_equal": self.tokens_equal,
        }
        path.write_text(json.dumps(content, indent=2) + "\n")

    def show(self) -> None:
        table = Table(title=f"{len(self.cold.conversations)} conversations, medians of each first turn")
        table.add_column("the engine is")
        for heading in ("first token after", "sooner", "tokens reused", "outputs equal"):
            table.add_column(heading, justify="right")
        for phase in (self.cold, self.restarted, self.replaced):
            table.add_row(
                phase.name,
                f"{phase.ttft_seconds:.2f} s",
                f"{self.cold.ttft_seconds / phase.ttft_seconds:.1f} x",
                f"{phase.reused_tokens:,}",
                "-" if phase is self.cold else ("yes" if phase.token_ids == self.cold.token_ids else "NO"),
            )
        Console().print(table)
