"""The engines of a proof, in their order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from saeguard.integrations.vllm.verify.check import NAMES, Check
from saeguard.integrations.vllm.verify.checks import run_checks
from saeguard.integrations.vllm.verify.cost import Race
from saeguard.integrations.vllm.verify.engine import Engine
from saeguard.integrations.vllm.verify.protocol import EngineFacts
from saeguard.integrations.vllm.verify.reference import NoReferenceError, Reference, references
from saeguard.integrations.vllm.verify.score_checks import referenced
from saeguard.integrations.vllm.verify.session import Evidence, run_session
from saeguard.integrations.vllm.verify.setting import Setting

_BLIND = "saeguard is BLIND"


@dataclass(frozen=True)
class Trial:
    """One run of `saeguard verify`."""

    model: str
    vllm_args: list[str]
    directory: Path
    """For logs, and for the compile cache of a thorough run."""
    setting: Setting
    is_thorough: bool
    say: Callable[[str], None]
    """Is told what is being done."""

    def run(self, with_cost: bool) -> tuple[EngineFacts, list[Check]]:
        """Start the engines, and find everything out.

        An engine that is not watched goes first: it leaves its compiled graphs to the other one.

        Raises:
            EngineError: one did not start, or has ended.
            UnsupportedError: this model cannot be tried.
        """
        with ExitStack() as engines:
            race = None
            if with_cost or self.is_thorough:
                plain = engines.enter_context(self._engine("plain", {"SAEGUARD_DISABLE": "1"}))
                if with_cost:
                    self.say("measuring the speed of the engine that is not watched")
                    race = Race(plain)
                else:
                    plain.stop()
            watched = engines.enter_context(
                self._engine("watched", {"SAEGUARD_CONFIG": str(self.setting.config)})
            )
            if not all(worker.is_watched for worker in watched.facts.workers):
                return watched.facts, _blind(watched)
            self.say("sending requests to the engine that is watched")
            evidence = run_session(watched, self.setting)
            cost = Check("cost", "skipped", "--no-cost")
            if race is not None:
                self.say("comparing the speed of the two engines")
                cost = race.against(watched)
        self.say("computing the same with Hugging Face")
        return watched.facts, [*run_checks(evidence, self._reference(evidence)), cost]

    def _engine(self, name: str, env: dict[str, str]) -> Engine:
        self.say(f"starting the {name} engine; its log is {self.directory / name}.log")
        if self.is_thorough:
            env = {**env, "VLLM_CACHE_ROOT": str(self.directory / "cache")}
        return Engine(self.model, self.vllm_args, self.directory / f"{name}.log", env)

    def _reference(self, evidence: Evidence) -> list[Reference] | NoReferenceError:
        sequences = [seen.token_ids for seen in referenced(evidence)]
        try:
            return references(evidence.after, self.setting.watchlist_file, sequences)
        except NoReferenceError as error:
            return error


def _blind(engine: Engine) -> list[Check]:
    """The plugin has refused this engine, and said why in the log."""
    lines = engine.log_lines(_BLIND) or [f"{_BLIND}: the log does not say why"]
    reason = lines[-1][lines[-1].index(_BLIND) :]
    taps, *others = NAMES
    return [
        Check(taps, "failed", reason),
        *(Check(name, "unproven", "nothing is watched") for name in others),
    ]
