"""The stream of runtime/examples/stream.c beside Python's: ``make runtime-test``.

Its command is the argument. ``python examples/tones.py --out runtime/tests/tones`` made the program
and the WAV file.
"""

import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

import billhook_runtime

FOLDER = Path(__file__).parent / "tones"
PROGRAM, WAV = FOLDER / "tones.billhook.safetensors", FOLDER / "tones.wav"
FRAME, KEYS = 160, "123A456B789C*0#D"
NUMBER = "0123456789*#"


def frames_of(path):
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    count = len(samples) // FRAME
    return (samples[: count * FRAME] / 32768).astype(np.float32).reshape(count, 1, 1, FRAME)


def listen(frames, state):
    """The scores of each frame, and the state after the last one."""
    program, scores = billhook_runtime.load(PROGRAM), []
    for frame in frames:
        made, state = program(frame, state).values()
        scores.append(made[0, 0])
    return np.array(scores).reshape(-1, len(KEYS) + 1), state


def silence():
    """The state before anything was heard."""
    own = billhook_runtime.load(PROGRAM).inputs["state"]
    return np.zeros(np.insert(own.shape, own.axis, 1), np.float32)


def run(command, *arguments):
    command = [*command, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_c_hears_what_python_hears(command, folder):
    ran = run(command, PROGRAM, WAV, folder / "scores")
    assert ran.returncode == 0, ran.stderr
    pressed = "".join(line.split(": ")[1] for line in ran.stdout.splitlines())
    assert pressed == NUMBER, ran.stdout
    wanted, _ = listen(frames_of(WAV), silence())
    given = np.fromfile(folder / "scores", np.float32).reshape(wanted.shape)
    error = np.linalg.norm(given - wanted) / np.linalg.norm(wanted)
    assert error <= 1e-5, f"a relative error of {error:.1e}"


def test_a_stream_can_be_cut_anywhere(command, folder):
    frames = frames_of(WAV)
    whole, end = listen(frames, silence())
    for cut in (0, 1, 37, len(frames) - 1, len(frames)):
        begin, state = listen(frames[:cut], silence())
        rest, state = listen(frames[cut:], state)
        assert np.array_equal(np.concatenate([begin, rest]), whole), cut
        assert np.array_equal(state, end), cut


def test_chunks_before_the_samples_are_passed_over(command, folder):
    data = WAV.read_bytes()
    other = folder / "other.wav"
    other.write_bytes(data[:12] + b"LIST\x03\0\0\0abc\0" + data[12:])
    assert run(command, PROGRAM, other).stdout == run(command, PROGRAM, WAV).stdout


def test_what_it_cannot_read_is_refused(command, folder):
    data = bytearray(WAV.read_bytes())
    stereo, bad = bytearray(data), folder / "bad.wav"
    stereo[22] = 2
    cases = [
        (data[:30], "ends before its samples"),
        (b"RIFX" + data[4:], "not a WAV file"),
        (b"", "not a WAV file"),
        (stereo, "one channel of 8000 samples of 16 bits"),
        (data[:12] + data[36:], "does not say what its samples are"),
    ]
    for content, words in cases:
        bad.write_bytes(content)
        ran = run(command, PROGRAM, bad)
        assert ran.returncode == 1 and words in ran.stderr, (words, ran.stderr)
    ran = run(command, FOLDER.parent / "vectors" / "maps.billhook.safetensors", WAV)
    assert ran.returncode == 1 and "must take samples and a state" in ran.stderr, ran.stderr
    ran = run(command, folder / "missing", WAV)
    assert ran.returncode == 1 and ran.stderr.strip(), "a missing program says nothing"


def main():
    for test in [value for name, value in globals().items() if name.startswith("test_")]:
        with tempfile.TemporaryDirectory() as folder:
            test(sys.argv[1:], Path(folder))
        print(f"ok {test.__name__}")


if __name__ == "__main__":
    main()
