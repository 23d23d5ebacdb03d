"""transformers, eager, as everybody calls it: fp32, bf16, and torch.ao's dynamic int8."""

import warnings
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.engine import names, opened, rows


def open_engine(name: names.Name, folder: Path, threads: int) -> opened.Opened:
    """Loads the checkpoint, and converts it in memory."""
    torch.set_num_threads(threads)
    model = transformers.AutoModel.from_pretrained(
        folder / "checkpoint", add_pooling_layer=False
    ).eval()
    if name.library == "torchao":
        with warnings.catch_warnings(action="ignore"):
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    elif name.precision == "bf16":
        model = model.to(torch.bfloat16)

    @torch.inference_mode()
    def run(batch: rows.Rows) -> rows.Floats:
        ids, mask = (torch.from_numpy(each) for each in rows.pad(batch))
        hidden_BSD = model(input_ids=ids, attention_mask=mask).last_hidden_state
        kept_BS1 = mask.unsqueeze(-1).to(hidden_BSD.dtype)
        means = (hidden_BSD * kept_BS1).sum(1) / kept_BS1.sum(1)
        return means.float().numpy().astype(np.float32, copy=False)

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return opened.Opened(variants={"padded": run}, versions=versions)
