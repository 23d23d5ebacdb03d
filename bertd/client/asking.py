"""What can be asked: the methods that the asyncio client and its streams share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from google.protobuf import message

from bertd.client import messages, results


class Asking(ABC):
    """Builds requests and reads replies; whoever inherits says how they travel."""

    async def classify(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        labels: Sequence[str] = (),
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
        raw_logits: bool = False,
    ) -> results.Classified:
        """Scores and decided labels of each input.

        Args:
            inputs: At most 1,024 texts, pairs of texts, or lists of token ids.
            model: The Model's name.
            adapter: One of its adapters; empty for the checkpoint's own head.
            adapter_bytes: Instead of `adapter`, a whole adapter file of at most 2 MiB, where the
                Model allows it; labels and their order are the file's.
            labels: Return only these labels' scores; the decision still sees all.
            truncate: Cut over-long inputs, or refuse them; None means as the Model declares.
            priority: How much of a busy daemon's time the call gets: shares of 16 ("high") to 1
                ("normal") to 1/16 ("low", for bulk work).
            raw_logits: Return the logits as well.
        """
        request = messages.classify(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            labels=labels,
            truncate=truncate,
            priority=priority,
            raw_logits=raw_logits,
        )
        return results.classified(await self._ask("classify", request))

    async def embed(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        normalize: bool | None = None,
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
    ) -> results.Floats:
        """One pooled vector for each input: float32 [inputs, dimensions].

        `normalize` scales them to length 1 or not; None means as the Model declares. For the other
        arguments see `classify`.
        """
        request = messages.embed(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            normalize=normalize,
            truncate=truncate,
            priority=priority,
        )
        return results.embedded(await self._ask("embed", request))

    async def tag(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
        raw_logits: bool = False,
    ) -> results.Tagged:
        """One label for each token of each input; for the arguments see `classify`."""
        request = messages.tag(
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            truncate=truncate,
            priority=priority,
            raw_logits=raw_logits,
        )
        return results.tagged(await self._ask("tag", request))

    @abstractmethod
    async def _ask(self, kind: str, request: message.Message) -> Any:
        """The reply to a request of a kind: "classify", "embed" or "tag"."""
