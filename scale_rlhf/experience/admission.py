"""Admission: how many samples may ever have been started, so that none can be too old when it is trained on.

One update publishes one version. While the policy is at version v with k = max_staleness, at most (v + k + 1)·B
samples have ever been admitted (B a batch): bounding slots in flight alone would bound nothing, since a slot that is
freed by a short answer would be filled again and again at the same version.

Example, B = 4. k = 0: samples 0–3 are admitted at version 0; 4–7 only once version 1 is published. k = 1: samples
0–7 at once; 8–11 with version 1, while the learner trains 4–7.
"""

from dataclasses import dataclass


@dataclass
class Admission:
    """Counts alone; no clock and no Ray. `in_flight` = admitted − trained − filtered, at every moment."""

    batch: int
    max_staleness: int
    total: int  # samples of the whole run: the last batch is no reason to start more
    version: int = 0
    admitted: int = 0
    trained: int = 0
    filtered: int = 0

    @property
    def allowed(self) -> int:
        """Samples that may be admitted now."""
        limit = (self.version + self.max_staleness + 1) * self.batch + self.filtered
        return max(0, min(limit, self.total + self.filtered) - self.admitted)

    @property
    def in_flight(self) -> int:
        return self.admitted - self.trained - self.filtered

    @property
    def done(self) -> bool:
        return self.trained >= self.total

    def admit(self) -> int:
        """Admit one sample; returns the version it was admitted at."""
        if not self.allowed:
            raise AssertionError(f"nothing may be admitted at version {self.version}: {self.admitted} are")
        self.admitted += 1
        return self.version

    def filter(self) -> None:
        """One admitted sample will never be trained on: another may start in its place."""
        self.filtered += 1

    def train(self, count: int) -> None:
        """`count` samples made the next version, which is now published."""
        self.trained += count
        self.version += 1
