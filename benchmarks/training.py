"""Trains the checkpoints that the benchmark stores, with torch on one core of the CPU.

Random numbers lie about compression, so these are real: a small transformer learns the source
text of Python's standard library. Each series holds nine checkpoints, eight to begin with and the
one that comes next. Run as `python -m benchmarks.training CACHE_FOLDER`, with what
benchmarks/requirements.txt names.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.formats import WRITERS, Tensors, write_safetensors

CHECKPOINTS = 9
WIDTH, LAYERS, HEADS, VOCABULARY = 384, 8, 6, 8192
BATCH, CONTEXT = 8, 48
CORPUS_CHARACTERS = 8 << 20
# Words with the space before them, line breaks with the indent after them, single signs.
TOKEN = re.compile(r" ?\w+|\n+ *|[^\w\n]")


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.norm_mlp = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        mixed = self.query_key_value(self.norm_attention(x))
        query, key, value = mixed.view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x))))


class Transformer(nn.Module):
    """A causal transformer over words, 20.6 million parameters, embeddings not tied."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class LowRank(nn.Module):
    """A frozen linear layer with a trained low-rank adapter beside it (LoRA, arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int = 8, scale: float = 2.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(rank))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: a checkpoint is saved after each `every_steps` steps."""

    series: str
    every_steps: int
    learning_rate: float
    beta2: float
    warmup_steps: int = 0

    @property
    def steps(self) -> int:
        return CHECKPOINTS * self.every_steps

    def rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero: what transformers' Trainer does unasked."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        return self.learning_rate * (self.steps - step) / (self.steps - self.warmup_steps)


def source_text(*, packages: bool) -> str:
    """Source text of the standard library: of its packages, or of its top-level modules."""
    library = Path(sysconfig.get_paths()["stdlib"])
    parts, characters = [], 0
    for file in sorted(library.glob("*/*.py" if packages else "*.py")):
        if "site-packages" not in file.parts and characters < CORPUS_CHARACTERS:
            parts.append(file.read_text(encoding="utf-8", errors="replace"))
            characters += len(parts[-1])
    return "".join(parts)


def corpus(*, packages: bool) -> torch.Tensor:
    """A text as numbers of tokens. The commonest have their own, the others go by their bytes."""
    counted = Counter(TOKEN.findall(source_text(packages=True)))
    common = [token for token, _ in counted.most_common(VOCABULARY - 256)]
    numbers = {token: [256 + at] for at, token in enumerate(common)}
    encoded: list[int] = []
    for token in TOKEN.findall(source_text(packages=packages)):
        encoded += numbers.get(token) or token.encode()
    return torch.tensor(encoded, dtype=torch.int16)


def train(model: nn.Module, text: torch.Tensor, run: Run) -> Iterator[tuple[int, float]]:
    """Train `model` in place and yield (step, loss) at each checkpoint.

    The optimizer's state is kept at `model.optimizer` for those who save it.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run.learning_rate, betas=(0.9, run.beta2))
    object.__setattr__(model, "optimizer", optimizer)
    started = time.monotonic()
    for step in range(1, run.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = run.rate(step - 1)
        starts = torch.randint(0, len(text) - CONTEXT - 1, (BATCH,)).tolist()
        batch = torch.stack([text[at : at + CONTEXT + 1] for at in starts]).long()
        scores = model(batch[:, :-1])
        loss = functional.cross_entropy(scores.reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % run.every_steps == 0:
            seconds = time.monotonic() - started
            print(f"{run.series}: step {step}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
            yield step, loss.item()


def save_folder(folder: Path, step: int, loss: float, run: Run) -> Path:
    """Make `checkpoint-STEP` with the small files that trainers leave beside the tensors."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    config = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2))
    state = {"global_step": step, "loss": loss, "learning_rate": run.learning_rate}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state, indent=2))
    torch.save(torch.get_rng_state(), checkpoint / "rng_state.pth")
    return checkpoint


def make_scratch(cache: Path, folder: Path) -> None:
    """Series (a): model and optimizer in fp32, from scratch."""
    run = Run("scratch", every_steps=50, learning_rate=6e-4, beta2=0.95, warmup_steps=50)
    model = Transformer()
    for step, loss in train(model, corpus(packages=True), run):
        checkpoint = save_folder(folder, step, loss, run)
        write_safetensors(model.state_dict(), checkpoint / "model.safetensors")
        torch.save(model.optimizer.state_dict(), checkpoint / "optimizer.pt")


def pretrained(cache: Path) -> Transformer:
    """The last model of series (a)."""
    from safetensors.torch import load_file

    newest = max((cache / "scratch").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    model = Transformer()
    model.load_state_dict(load_file(newest / "model.safetensors"))
    return model


def make_finetune(cache: Path, folder: Path) -> None:
    """Series (b) in fp32: fine-tuned at 2e-5, saved every 50 steps."""
    run = Run("finetune-fp32", every_steps=50, learning_rate=2e-5, beta2=0.999)
    model = pretrained(cache)
    for step, loss in train(model, corpus(packages=False), run):
        checkpoint = save_folder(folder, step, loss, run)
        write_safetensors(model.state_dict(), checkpoint / "model.safetensors")


def make_lora(cache: Path, folder: Path) -> None:
    """Series (d): a frozen bf16 base in each checkpoint, and small adapters beside it."""
    run = Run("lora", every_steps=10, learning_rate=1e-3, beta2=0.999)
    model = pretrained(cache).requires_grad_(False)
    frozen = in_bf16(model.state_dict())
    for block in model.blocks:
        block.query_key_value = LowRank(block.query_key_value)
        block.output = LowRank(block.output)
    for step, loss in train(model, corpus(packages=False), run):
        checkpoint = save_folder(folder, step, loss, run)
        write_safetensors(frozen, checkpoint / "model.safetensors")
        adapters = {name: value for name, value in model.state_dict().items() if "lora_" in name}
        write_safetensors(adapters, checkpoint / "adapter_model.safetensors")
        torch.save(model.optimizer.state_dict(), checkpoint / "optimizer.pt")


def in_bf16(tensors: Tensors) -> Tensors:
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def converted(cache: Path, folder: Path, save: Callable[[Tensors, Path], None]) -> None:
    """The checkpoints of series (b), each written again by `save` into a folder of its own."""
    from safetensors.torch import load_file

    for source in sorted((cache / "finetune-fp32").iterdir()):
        checkpoint = folder / source.name
        shutil.copytree(source, checkpoint, ignore=shutil.ignore_patterns("*.safetensors"))
        save(load_file(source / "model.safetensors"), checkpoint)


def make_finetune_bf16(cache: Path, folder: Path) -> None:
    """Series (b) in bf16."""

    def save(tensors: Tensors, checkpoint: Path) -> None:
        write_safetensors(in_bf16(tensors), checkpoint / "model.safetensors")

    converted(cache, folder, save)


def make_format(suffix: str) -> Callable[[Path, Path], None]:
    """Series (c): series (b) in fp32 as files of the format that `suffix` names."""

    def make(cache: Path, folder: Path) -> None:
        def save(tensors: Tensors, checkpoint: Path) -> None:
            WRITERS[suffix](tensors, checkpoint / f"model.{suffix}")

        converted(cache, folder, save)

    return make


# In the order in which they stand on each other.
SERIES: dict[str, Callable[[Path, Path], None]] = {
    "scratch": make_scratch,
    "finetune-fp32": make_finetune,
    "lora": make_lora,
    "finetune-bf16": make_finetune_bf16,
    **{f"finetune-{suffix}": make_format(suffix) for suffix in ("pt", "npz", "h5", "gguf")},
}


def main() -> None:
    """Make every series that the cache does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    cache: Path = parser.parse_args().cache
    torch.set_num_threads(1)
    for number, (name, make) in enumerate(SERIES.items()):
        if (cache / name).is_dir():
            continue
        unfinished = cache / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        torch.manual_seed(number)
        make(cache, unfinished)
        unfinished.rename(cache / name)


if __name__ == "__main__":
    main()
