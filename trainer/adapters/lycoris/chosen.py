"""The layers of a model that a preset means, by the names that files give them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer.adapters.lycoris.presets import CLASSES, Preset, algorithm, settings_for
from trainer.adapters.walk import Target, original_path, text_namer, unet_namer

if TYPE_CHECKING:
    from trainer.models import Model
    from trainer.settings import Settings


@dataclass(frozen=True)
class Chosen(Target):
    """A layer, the algorithm it is trained with and the settings that count for it."""

    algo: str = ""
    s: Any = field(default=None, compare=False, repr=False)


def chosen(model: "Model", preset: Preset, algo: str, s: "Settings") -> list[Chosen]:
    """Every layer that the preset means, text encoders first, each once; with Train Norm the norms in its blocks."""
    found: list[Chosen] = []
    for number, encoder in enumerate(model.text_encoders):
        walk = _Walk(preset, algo, s, "text", encoder, text_namer(model, number), number)
        found += walk(preset.text_encoder_target_module, preset.text_encoder_target_name, _text_paths(encoder))
    walk = _Walk(preset, algo, s, "unet", model.unet, unet_namer(model))
    return found + walk(preset.unet_target_module, preset.unet_target_name, _paths(model))


def _text_paths(encoder: nn.Module) -> Callable[[str], str]:
    """The path as it was before transformers left out the "text_model" level, which patterns know."""
    start = "" if hasattr(encoder, "text_model") else "text_model."
    return lambda path: f"{start}{path}" if path else ""


def _paths(model: "Model") -> Callable[[str], str]:
    """The path that a preset's patterns mean: that of the original code where files have its names."""
    if model.family != "sdxl":
        return lambda path: path
    each = int(model.unet.config.layers_per_block) + 1
    with_attention = ["Attn" in kind for kind in model.unet.config.up_block_types]
    return lambda path: original_path(path, each, with_attention)


@dataclass
class _Walk:
    preset: Preset
    algo: str
    s: "Settings"
    part: str
    root: nn.Module
    name: Callable[[str], str]
    encoder: int = 0

    def __call__(self, blocks: tuple[str, ...], names: tuple[str, ...], path_of: Callable[[str], str]) -> list[Chosen]:
        preset, classes = self.preset, {CLASSES.get(name, name) for name in blocks}
        found: dict[str, Chosen] = {}
        for path, module in self.root.named_modules():
            original = path_of(path)
            if preset.leaves_out(original):
                continue
            if path and any(original == name or preset.matches(name, original) for name in names):
                own = preset.own_settings(original)
                own = self._of_class(module) if own is None else own
                found.update(self._taken(path, module, own or {}))
            elif type(module).__name__ in classes:
                for key, item in self._in_block(path, module, self._of_class(module) or {}, path_of).items():
                    found.setdefault(key, item)
        return list(found.values())

    def _of_class(self, module: nn.Module) -> Mapping[str, Any] | None:
        word = type(module).__name__
        names = [name for name in self.preset.module_algo_map if CLASSES.get(name, name) == word]
        return self.preset.module_algo_map[names[0]] if names else None

    def _in_block(
        self, path: str, block: nn.Module, own: Mapping[str, Any], path_of: Callable[[str], str]
    ) -> dict[str, Chosen]:
        found: dict[str, Chosen] = {}
        for inner, module in block.named_modules():
            whole = f"{path}.{inner}" if path and inner else path or inner
            if self.preset.leaves_out(path_of(whole)):
                continue
            other = self._of_class(module) if inner else None
            items = self._taken(whole, module, own) if other is None else self._in_block(whole, module, other, path_of)
            for key, item in items.items():
                found.setdefault(key, item)
        return found

    def _taken(self, path: str, module: nn.Module, own: Mapping[str, Any]) -> dict[str, Chosen]:
        """The layer itself, if it is of a kind that can be trained."""
        s, name = settings_for(own, self.s, path), self.name(path)
        is_norm = isinstance(module, nn.LayerNorm | nn.GroupNorm)
        if not (isinstance(module, nn.Linear | nn.Conv2d) or (is_norm and s.train_norm)):
            return {}
        item = Chosen(name, self.part, path, self.root, module, self.encoder)
        if item.is_spatial and not (self.preset.enable_conv or "dim" in own):
            return {}
        algo = "norm" if is_norm else algorithm(str(own.get("algo", self.algo))) or self.algo
        return {name: Chosen(name, self.part, path, self.root, module, self.encoder, algo, s)}
