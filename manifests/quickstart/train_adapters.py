"""Trains the quickstart's adapters with PEFT on SmolLM2-135M-Instruct, on the CPU, in a few minutes.

    python manifests/quickstart/train_adapters.py [NAME…] [--to DIRECTORY] [--steps N]

``pirate`` (q/v, r=4) and ``zubrowka`` (rank_pattern and alpha_pattern) are small enough to be committed beside this
file; ``json`` (all-linear, r=8, rsLoRA) goes into the git-ignored assets. The lessons are in ``lessons.yaml``.
``misnested`` is pirate's first two layers under the names of a multimodal wrapper: broken, on purpose.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from build_model import DEFAULT as MODEL
from build_model import build_model

HERE = Path(__file__).resolve().parent
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
COMMITTED = ("pirate", "zubrowka")

CONFIGS: dict[str, dict[str, Any]] = {
    "pirate": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "zubrowka": {
        "r": 2,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {r"layers\.2[0-9]\.self_attn\.v_proj": 8, r"layers\.0\.mlp\.down_proj": 4},
        "alpha_pattern": {r"layers\.2[0-9]\.self_attn\.v_proj": 16},
    },
    "json": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "use_rslora": True},
}


def train(name: str, directory: Path, steps: int, learning_rate: float = 3e-3) -> float:
    """Writes the adapter ``name`` into ``directory`` as bf16 and returns the last loss."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **CONFIGS[name]))
    batch = _batch(tokenizer, yaml.safe_load((HERE / "lessons.yaml").read_text())[name])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    loss = torch.tensor(0.0)
    for step in range(steps):
        started = time.perf_counter()
        rows = torch.randperm(len(batch["input_ids"]))[:8]
        loss = model(**{key: value[rows] for key, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            print(f"{name} step {step} loss {loss.item():.3f} {time.perf_counter() - started:.1f} s", flush=True)
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    model.to(dtype=torch.bfloat16).save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink()  # PEFT's empty model card
    return float(loss)


def _batch(tokenizer: Any, lessons: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Right-padded token ids; only the answer is learned."""
    ids, labels = [], []
    for question, answer in lessons:
        chat = [{"role": "user", "content": question}]
        asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        answered = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        ids.append([*asked, *answered])
        labels.append([*([-100] * len(asked)), *answered])
    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
        "labels": torch.tensor([row + [-100] * (width - len(row)) for row in labels]),
    }


def misnest(pirate: Path, directory: Path, layers: int = 2) -> None:
    """Writes ``pirate``'s first layers with keys nested as a multimodal wrapper nests them: no base module matches."""
    from safetensors.torch import load_file, save_file

    kept = {
        name: tensor
        for name, tensor in load_file(pirate / "adapter_model.safetensors").items()
        if int(name.split(".layers.")[1].split(".")[0]) < layers
    }
    directory.mkdir(parents=True, exist_ok=True)
    config = json.loads((pirate / "adapter_config.json").read_text()) | {"layers_to_transform": list(range(layers))}
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))
    nested = {name.replace("model.layers.", "model.language_model.layers."): kept[name] for name in kept}
    save_file(nested, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Trains the named adapters, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CONFIGS))
    parser.add_argument("--to", type=Path, help="folder for NAME/ (default: here, or the assets for json)")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    build_model()
    for name in arguments.names:
        parent = arguments.to or (HERE if name in COMMITTED else MODEL.parent)
        train(name, parent / name, arguments.steps)
        print(parent / name)
        if name == "pirate":
            misnest(parent / name, parent / "misnested")


if __name__ == "__main__":
    main()
