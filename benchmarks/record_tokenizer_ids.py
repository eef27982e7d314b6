"""Record the token ids that llama.cpp gives, for tests that compare without building llama.cpp.

Needs the llama-cpp-python package:  python benchmarks/record_tokenizer_ids.py MODEL.gguf tests/data/OUT.json
"""

# ruff: noqa: RUF001
from __future__ import annotations

import argparse
import json
from pathlib import Path

import llama_cpp

TEXTS = [
    "", " ", "  ", "\n", "\t\n \r\n", "a", " a", "  a b   c    ",
    "Hello, world! The quick brown fox doesn't jump; it's we're I'll THEY'VE.",
    "0 1 12 123 1234567890 3.14159 1,000,000 0xDEADBEEF 1e-9 ½ ² ٣ 四 Ⅷ",
    "def f(x: int) -> int:\n    return x ** 2  # square\n\n\nclass A(B):\n\tpass\n",
    "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 42); return 0; }\n",
    "<html><body class='a'>&amp; <!-- c --></body></html>", '{"key": [1, 2.5, null, true], "s": "\\u00e9"}',
    "人工智能正在改变世界。你好，世界！", "日本語のテキストと、カタカナ。", "한국어 문장입니다.", "Привет, мир! Ёлка.",
    "العربية لغة جميلة", "हिन्दी में लिखना", "ไทยไม่มีช่องว่าง", "Ελληνικά και Ἀρχαῖα",
    "naïve café résumé — “quotes” … ‘x’", "cafe\u0301 vs caf\u00e9", "ﬁ ﬂ Å Ω",
    "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈",
    "\u200b\u200d\ufeff\u00a0\u3000x\u2028y",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f", "\U0001f9ff\U0002070e\U000e0041",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|> c<|im_start|><|im_end|>", "<|im_start", "<repo_name>x<file_sep>y<unknown_tag>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 40, "-" * 17 + " " * 17 + "\n" * 5,
    "ThisIsCamelCase_and_snake_case-and-kebab",
    "https://example.org/a/b?c=d&e=f#g user@example.org", "x = y\r\nz\r\r\n\n\n w", "ĠĊ Ä¡ âĢĻ",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    model = llama_cpp.Llama(str(arguments.model), vocab_only=True, verbose=False)
    cases = [{"text": text, "ids": model.tokenize(text.encode(), add_bos=False, special=True)} for text in TEXTS]
    record = {"model": arguments.model.name, "llama_cpp_python": llama_cpp.__version__, "cases": cases}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
