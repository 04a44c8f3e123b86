"""What the kernel says about a process: its memory and its descriptors."""

from pathlib import Path

KIB_OF_A_MIB = 1024


class Memory:
    """The resident memory of a process, and the most it was since somebody last asked to forget the peak."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def now_mib(self) -> float:
        """Return what is resident now."""
        return self._line("VmRSS")

    def peak_mib(self) -> float:
        """Return the most that was resident since the start, or since `forget_peak`."""
        return self._line("VmHWM")

    def forget_peak(self) -> float:
        """Begin a new peak at what is resident now, and return that."""
        (self._folder / "clear_refs").write_text("5")
        return self.now_mib()

    def descriptors(self) -> int:
        """Return how many files and sockets are open."""
        return sum(1 for _ in (self._folder / "fd").iterdir())

    def _line(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / KIB_OF_A_MIB
