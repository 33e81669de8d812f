"""Commands that are killed at random moments, by random weapons, and taken up again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass

import commands
import psutil
from storm_rounds import Storm
from storm_runs import KINDS, Ended, Place, session_of

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
WEAPONS = ("SIGKILL to the process", "SIGKILL to its group", "SIGKILL to a player", *(each.name for each in SIGNALS))
MOST_HITS = 6


@dataclass(frozen=True)
class Hit:
    """A weapon used some seconds after the start of the command; which: of several players, in [0, 1)."""

    weapon: str
    moment: float
    which: float

    def strike(self, process: commands.Process) -> bool:
        """Wait and strike; False where there is nothing left to strike."""
        with contextlib.suppress(commands.TimeoutExpired):
            process.wait(self.moment)
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if self.weapon == "SIGKILL to a player":
                return _kill_a_player(process, self.which)
            if process.poll() is None:
                if self.weapon == "SIGKILL to its group":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    os.kill(process.pid, signal.SIGKILL if self.weapon in WEAPONS[:2] else signal.Signals[self.weapon])
                return True
        return False

    def faults(self, ended: Ended) -> list[str]:
        """What is wrong with how the command ended that was struck."""
        if self.weapon == "SIGKILL to a player":
            codes, words = (0, 1), ended.code
        elif self.weapon.startswith("SIGKILL"):
            codes, words = (0, -signal.SIGKILL), 0
        else:  # a signal that comes before training has begun may kill
            number = signal.Signals[self.weapon]
            codes, words = (0, 128 + number, -number), int(ended.code == 128 + number)
        return [
            *ended.faults,
            *([f"exit code {ended.code}: {ended.tail}"] if ended.code not in (None, *codes) else ()),
            *([f"{len(ended.said)} lines of train.py's: {ended.tail}"] if len(ended.said) != words else ()),
        ]


def _kill_a_player(process: commands.Process, which: float) -> bool:
    """Kill one of the processes that play the evaluation, once there is one; False where there was none."""
    while process.poll() is None:
        players = [each for each in session_of(process.pid) if "spawn_main" in " ".join(each.info["cmdline"] or ())]
        if players:
            players[int(which * len(players))].kill()
            return True
        time.sleep(0.01)
    return False


class Kills(Storm):
    """Runs and packs that are hit up to MOST_HITS times each, then trained to their end."""

    def round(self, number: int, name: str) -> tuple[Place, list[str]]:
        draws = random.Random(f"kills {self.seed} {number}")
        kind = draws.choice(KINDS)
        twin, place = self.twins.of(kind), self.twins.place(kind, name)
        faults: list[str] = []
        story = kind.name
        for _ in range(draws.randint(1, MOST_HITS)):
            hit = Hit(draws.choice(WEAPONS), draws.uniform(0.0, twin.seconds), draws.random())
            story += f", {hit.weapon} at {hit.moment:.2f} s"
            faults += [f"{story}: {fault}" for fault in self._struck(place, hit)]
            if self.enough:
                break
        return place, faults + [f"{story}, then {fault}" for fault in place.finish(twin.content)]

    def _struck(self, place: Place, hit: Hit) -> list[str]:
        process = place.start()
        struck = hit.strike(process)
        ended = place.end_of(process)
        if struck and (ended.code != 0 or hit.weapon == "SIGKILL to a player"):  # else it came too late
            with self.lock:
                self.counted[hit.weapon] += 1
        return hit.faults(ended)

    def summary(self) -> str:
        weapons = ", ".join(f"{weapon} {self.counted[weapon]}" for weapon in WEAPONS if self.counted[weapon])
        return f"{self.counted.total()} kills ({weapons}) over {self.rounds} runs and packs"
