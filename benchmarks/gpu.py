"""Masks on a GPU: are they right there, and what do they cost? About four minutes on an H100.

    python benchmarks/gpu.py                      # exit status 1 if a check fails
    python benchmarks/gpu.py --device cpu --tiny  # tries the script itself where there is no GPU

One line for each check: PASS or FAIL, what was measured, the budget. The checks stand in the order
of their worth, should the time be short. The budgets are estimates (docs/pruning.md) times 1.4
to 2.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import billhook
from billhook.mask import Mask, select, survivors

Shapes = list[tuple[int, int]]
#: Model -> milliseconds: a step adds on the device and on the host, an update adds.
BUDGETS = {"ResNet-50": (0.2, 0.5, 5), "1.3B": (8, 1, 60), "7B, one of 8 shards": (6, 1, 45)}


class Checks:
    """What was found so far."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.device, self.tiny = torch.device(device), tiny
        self.on_gpu = self.device.type == "cuda"
        self.failed = 0

    def report(self, name: str, found: float, budget: float, unit: str = "") -> None:
        """A check passes if what was found is within its budget."""
        passed = found <= budget
        self.failed += not passed
        verdict = "PASS" if passed else "FAIL"
        print(f"{verdict}  {name:66} {found:9.2f} {unit:9} budget {budget:g}", flush=True)

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], object], rounds: int = 25) -> tuple[float, float]:
        """Medians of the device's and of the host's time of a call."""
        there, here = [], []
        for _ in range(rounds):
            self.wait()
            start = time.perf_counter()
            call()
            here.append((time.perf_counter() - start) * 1e3)
            self.wait()
            there.append((time.perf_counter() - start) * 1e3)
        return statistics.median(there[2:]), statistics.median(here[2:])


def exactness(checks: Checks) -> None:
    """Masks of scores with ties, zeros of both signs, infinities and subnormals."""
    torch.manual_seed(0)
    odd = torch.randn(3_000)
    few = torch.tensor([float("inf"), -float("inf"), -0.0, 0.0, 1e-42, -1e-42])
    odd[: 7 * 400] = few[torch.randint(6, (7 * 400,))]
    scores = [odd]
    for count in (1, 33, 1_023, 100_003, *(() if checks.tiny else (20_000_001,))):
        scores += [torch.randn(count).abs(), torch.randint(0, 5, (count,)).float()]
    different = 0
    for each in scores:
        for keep in {0, 1, each.numel() // 10, each.numel() // 2, each.numel()}:
            there = select(each.to(checks.device), keep)
            different += not torch.equal(select(each, keep), there.cpu())
            different += not torch.equal(Mask(select(each, keep)).bits, Mask(there).bits.cpu())
    checks.report("select and bits equal the CPU's, ties included", different, 0, "differ")


def runs(checks: Checks) -> None:
    """Masks at every step of runs in fp32 and bf16, contiguous and channels-last."""
    schedule = billhook.Cubic(0.9, 1, 13, frequency=3)
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(1)
            model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Linear(129, 77)).to(dtype)
            raw = {n: p.detach().clone() for n, p in model.named_parameters() if p.dim() > 1}
            model = model.to(checks.device, memory_format=layout)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)  # ranks stay as they are
            pruner = billhook.Pruner(model, optimizer, schedule)
            different = 0
            for step in range(1, 14):
                for parameter in model.parameters():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
                for name, mask in pruner.masks.items():
                    kept = survivors(raw[name].numel(), schedule(step))
                    wanted = select(raw[name].float().abs(), kept)
                    different += not torch.equal(wanted, mask.cpu())
            pruner.finalize()
            name = f"masks of a run equal the CPU's, {dtype}, {layout}"
            checks.report(name.replace("torch.", ""), different, 0, "differ")


def shapes_of(model: str, tiny: bool) -> Shapes:
    """The matrices of a model."""
    shapes: Shapes = []
    if model == "ResNet-50":
        inputs = 64
        for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for block in range(blocks):
                shapes += [(width, inputs), (width, width * 9), (width * 4, width)]
                shapes += [(width * 4, inputs)] if block == 0 else []
                inputs = width * 4
        shapes = [(64, 147), *shapes, (1_000, 2_048)]
    elif model == "1.3B":
        shapes = [(2_048, 2_048)] * 4 + [(8_192, 2_048), (2_048, 8_192)]
        shapes = shapes * 24 + [(50_304, 2_048)]
    else:
        shapes = [(512, 4_096)] * 4 + [(1_376, 4_096)] * 2 + [(512, 11_008)]
        shapes = shapes * 32 + [(4_000, 4_096)]
    return [(r // 16 + 1, c // 16 + 1) for r, c in shapes[:6]] if tiny else shapes


def costs(checks: Checks) -> None:
    """What masks add to a fused AdamW step, before and after the first one, and updates."""
    for model, (device_ms, host_ms, update_ms) in BUDGETS.items():
        shapes = shapes_of(model, checks.tiny)
        count = sum(rows * columns for rows, columns in shapes)
        layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in shapes)
        for layer, shape in zip(layers, shapes, strict=True):
            layer.weight = nn.Parameter(torch.randn(shape, device=checks.device) * 0.02)
        weights = list(layers.parameters())
        grads = [torch.randn_like(weight) for weight in weights]
        optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)

        def step(
            weights: list[nn.Parameter] = weights,
            grads: list[Tensor] = grads,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            for weight in weights:
                weight.grad = None
            torch.autograd.backward(weights, [grad.clone() for grad in grads])
            optimizer.step()

        name = f"{model}, {len(shapes)} tensors, {count / 1e6:,.0f} M:"
        checks.milliseconds(step)  # what is allocated once
        added = {}
        for when, begin in (("before the first mask", 10_000), ("with masks", 0)):
            plain = checks.milliseconds(step)
            schedule = billhook.OneShot(0.9, begin, begin + 10_000, frequency=5_000)
            pruner = billhook.Pruner(layers, optimizer, schedule)
            added[when] = [a - b for a, b in zip(checks.milliseconds(step), plain, strict=True)]
            pruner.detach()
        print(f"      {name} the plain step takes {plain[0]:.2f} ms, {plain[1]:.2f} of the host's")
        checks.report(f"{name} step adds, device", added["with masks"][0], device_ms, "ms")
        checks.report(f"{name} step adds, host", added["with masks"][1], host_ms, "ms")
        early = added["before the first mask"][0]
        checks.report(f"{name} before the first mask", early, 0.05 + plain[0] / 100, "ms")
        pruner = billhook.Pruner(layers, optimizer, billhook.Cubic(0.9, 2, 12, frequency=1))
        step()
        step()
        if checks.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if checks.on_gpu else 0
        update = checks.milliseconds(step, 8)[0] - plain[0] - added["with masks"][0]
        peak = torch.cuda.max_memory_allocated() if checks.on_gpu else 0
        checks.report(f"{name} update adds", update, update_ms, "ms")
        on_top = max(0.0, (peak - held) / count - 4)  # less the copies that this script makes
        checks.report(f"{name} memory on top at an update", on_top, 1, "B/weight")
        pruner.detach()


def _optimizers(checks: Checks) -> Iterator[tuple[str, Callable[..., torch.optim.Optimizer]]]:
    yield "fused AdamW", lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True)
    if checks.on_gpu:
        rate = torch.tensor(1e-4, device=checks.device)
        yield "capturable, tensor lr", lambda p: torch.optim.AdamW(p, lr=rate, capturable=True)


def synchronisations(checks: Checks) -> None:
    """Steps and updates under torch's mode that refuses to wait for the device."""
    for name, make in _optimizers(checks):
        model = nn.Sequential(*[nn.Linear(200, 300, bias=False) for _ in range(20)])
        model = model.to(checks.device)
        optimizer = make(model.parameters())
        pruner = billhook.Pruner(model, optimizer, billhook.Cubic(0.9, 3, 9, frequency=3))
        waited = 0
        for step in range(1, 10):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            if checks.on_gpu and step > 2:
                checks.wait()
                torch.cuda.set_sync_debug_mode("error")
            try:
                optimizer.step()
            except RuntimeError as error:
                waited += 1
                print("     ", str(error).splitlines()[0][:120])
            finally:
                if checks.on_gpu:
                    torch.cuda.set_sync_debug_mode("default")
        pruner.detach()
        checks.report(f"steps and updates that wait for the device, {name}", waited, 0, "steps")


def launches(checks: Checks) -> None:
    """Kernels that steps and updates add to backward and step of 20 tensors."""
    counts = {}
    for pruned in (False, True):
        model = nn.Sequential(*[nn.Linear(200, 200, bias=False) for _ in range(20)])
        model = model.to(checks.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        if pruned:
            billhook.Pruner(model, optimizer, billhook.Cubic(0.9, 2, 8, frequency=3))
        grads = [torch.randn_like(weight) for weight in model.parameters()]
        for step in range(1, 8):
            optimizer.zero_grad()
            copies = [grad.clone() for grad in grads]
            with torch.profiler.profile() as seen:
                torch.autograd.backward(list(model.parameters()), copies)
                optimizer.step()
                checks.wait()
            device = torch.autograd.DeviceType.CUDA
            names = [each.name for each in seen.events() or [] if each.device_type == device]
            kernels = [name for name in names if not name.startswith("Mem")]  # Memcpy, Memset
            counts[pruned, step] = len(kernels)
    for name, step, most in (("a step", 7, 2), ("an update", 5, 20)):
        added = counts[True, step] - counts[False, step]
        checks.report(f"kernels that {name} adds, 20 tensors", added, most, "kernels")


def graphs(checks: Checks) -> None:
    """A captured step holds masks that change between replays, at the same addresses."""
    if not checks.on_gpu:
        return
    model = nn.Sequential(*[nn.Linear(300, 300, bias=False) for _ in range(5)]).to(checks.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True, capturable=True)
    pruner = billhook.Pruner(model, optimizer, billhook.Cubic(0.9, 5, 14, frequency=3))
    x = torch.randn(16, 300, device=checks.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(x).square().mean().backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    addresses = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    strays = 0
    for _ in range(12):
        graph.replay()
        pruner.replayed()
        for name, keep in pruner.masks.items():
            strays += int(model.get_parameter(name).detach()[~keep].count_nonzero())
    moved = sum(weight.data_ptr() != addresses[n] for n, weight in model.named_parameters())
    checks.report("masked weights that a graph's replays moved", strays, 0, "weights")
    checks.report("weights at another address after updates", moved, 0, "tensors")
    checks.report("steps that replays did not count", 15 - pruner.step_count, 0, "steps")
    pruner.finalize()


def modes(checks: Checks) -> None:
    """Deterministic algorithms, and torch.compile(mode="reduce-overhead")."""
    for name in ("deterministic", "reduce-overhead"):
        if name == "reduce-overhead" and not checks.on_gpu:
            continue
        torch.use_deterministic_algorithms(name == "deterministic")
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64))
        model = model.to(checks.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        pruner = billhook.Pruner(model, optimizer, billhook.Cubic(0.8, 2, 14, frequency=3))
        run = torch.compile(model, mode=name) if name == "reduce-overhead" else model
        for _ in range(16):
            optimizer.zero_grad()
            run(torch.randn(32, 256, device=checks.device)).square().mean().backward()
            optimizer.step()
        masked = {n: model.get_parameter(n).detach()[~k] for n, k in pruner.masks.items()}
        strays = sum(int(each.count_nonzero()) for each in masked.values())
        checks.report(f"masked weights that moved, {name}", strays, 0, "weights")
        pruner.finalize()
    torch.use_deterministic_algorithms(False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small tensors: tries the script")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the zeros that a detached pruner leaves
    checks = Checks(given.device, given.tiny)
    name = torch.cuda.get_device_name() if checks.on_gpu else "cpu"
    print(f"torch {torch.__version__}, {name}, billhook {billhook.__version__}")
    for check in (exactness, runs, costs, synchronisations, launches, graphs, modes):
        check(checks)
    print(f"{checks.failed} failed")
    return bool(checks.failed)


if __name__ == "__main__":
    sys.exit(main())
