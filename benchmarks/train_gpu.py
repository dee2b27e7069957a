"""`sophia train` compared with TRL's `SFTTrainer` on a GPU: random models of the size of InternVL3-2B and 8B, long
trajectories.

    python benchmarks/train_gpu.py                              # 2b and 8b at 8K and 32K tokens
    python benchmarks/train_gpu.py --sizes tiny --tokens 256    # a trial, on any machine

The 2B model trains its whole language model, the 8B one adapters of rank 64 (its optimizer states would not fit). One
row per update, the same rows for both, each run in its own process, in turn. Model FLOPs per token: 6 N + 12 L h T,
with N the weights of the language model; 4 N where only adapters train. MFU is relative to the GPU's dense bf16 peak
(`--peak`; H100, H200: 989e12).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from sophia_cli.models.aliases import resolve_model

HERE = Path(__file__).parent
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "2b": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2},
    "8b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4},
}
INNER = {"tiny": 128, "2b": 8960, "8b": 18944}
ADAPTERS = {"8b": 64}
VOCABULARY, STEPS = 151_674, 8
LEAST, MFU = 1.2, 0.45
"""What we aim for: × TRL, and at 8K tokens."""


def make_model(size: str, folder: Path) -> Path:
    """Returns a random bf16 model of the embedded one's class, vision tower and vocabulary, with a language model of this
    size.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    source = Path(resolve_model("tiny-vlm").path)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "sophia.json"))
    config = AutoConfig.from_pretrained(source)
    text = config.text_config
    for name, value in {**SIZES[size], "intermediate_size": INNER[size]}.items():
        setattr(text, name, value)
    text.head_dim = text.hidden_size // text.num_attention_heads
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    text.vocab_size = text.vocab_size if size == "tiny" else VOCABULARY
    text.max_position_embeddings = 1 << 16
    config.tie_word_embeddings = text.tie_word_embeddings = False
    config.dtype = torch.bfloat16
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        AutoModelForImageTextToText.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def lengthen(rows: Path, model: Path, tokens: int) -> None:
    """Lengthens the trajectories so that prompt and trajectory have about this many tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    records = [json.loads(line) for line in rows.read_text().splitlines()]
    for record in records:
        thought = record["trajectory"].removeprefix("<think>\n")
        each = len(tokenizer(thought, add_special_tokens=False)["input_ids"])
        line = thought.partition("\n</think>")[0]
        record["trajectory"] = "<think>\n" + f"{line}\n" * max(1, (tokens - 200) // each) + thought
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))


def flops(model: Path, tokens: int, adapters: bool) -> float:
    """Returns the model FLOPs per token in a row of this many tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        policy = AutoModelForImageTextToText.from_config(config)
    weights = sum(p.numel() for name, p in policy.named_parameters() if "language_model.layers" in name or "lm_head" in name)
    text = config.text_config
    return (4 if adapters else 6) * weights + 12 * text.num_hidden_layers * text.hidden_size * tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["2b", "8b"], choices=SIZES)
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192, 32768])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--peak", type=float, default=989e12, help="The GPU's dense bf16 FLOP/s.")
    options = parser.parse_args()
    print("| model | tokens | `sophia train` | MFU | TRL's `SFTTrainer` | faster |\n|---|---|---|---|---|---|")
    reached = True
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            model = make_model(size, Path(folder) / size)
            for tokens in options.tokens:
                reached &= row(size, model, tokens, options)
    return 0 if reached else 1


def row(size: str, model: Path, tokens: int, options: argparse.Namespace) -> bool:
    """Prints one line of the table. Returns whether it reaches the targets."""
    sys.path.insert(0, str(HERE))
    from train import make_rows

    folder = Path(tempfile.mkdtemp(dir=model.parent))
    rows = make_rows(folder, STEPS)
    lengthen(rows, model, tokens)
    adapters = ADAPTERS.get(size, 0)
    found: dict[str, list[tuple[float, float]]] = {"trl": [], "sophia": []}
    for turn in ("trl", "sophia") * options.runs:
        command = [sys.executable, str(HERE / "train.py"), "--only", turn, str(rows), "--model", str(model)]
        command += ["--micro", "1", "--batch", "1", "--steps", str(STEPS), "--lora-rank", str(adapters)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{turn}, {size}, {tokens} tokens: {done.stderr[-2000:]}", file=sys.stderr)
            return False
        rate, memory = done.stdout.split()[-2:]
        found[turn].append((float(rate) * tokens, float(memory)))
    speeds = {turn: median(rate for rate, _ in values) for turn, values in found.items()}
    memory_gb = {turn: max(most for _, most in values) / 1024 for turn, values in found.items()}
    used = speeds["sophia"] * flops(model, tokens, adapters > 0) / options.peak
    ratio = speeds["sophia"] / speeds["trl"]
    cells = [f"{speeds[turn]:,.0f} tokens/s, {memory_gb[turn]:.1f} GB" for turn in ("sophia", "trl")]
    print(f"| {size} | {tokens:,} | {cells[0]} | {used:.1%} | {cells[1]} | {ratio:.2f} × |", flush=True)
    return ratio >= LEAST and (used >= MFU or tokens != 8192)


if __name__ == "__main__":
    sys.exit(main())
