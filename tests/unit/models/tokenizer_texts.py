"""Text on which tokenizers like to differ."""

from __future__ import annotations

TEXTS = (
    "Hello world",
    "",
    " ",
    " leading and trailing ",
    "two  spaces, three   spaces\tand\ttabs",
    "lines\nmore lines\r\n\n\n   \n",
    "it's we'll they'd I'M CAN'T 'quoted'",
    "def f(x: int) -> int:\n    return x ** 2  # squares\n\n\tif x != 0x1F: pass",
    '{"a": [1, 2.5e-3, null], "b": "\\n"}',
    "in 2024, 3.14159 and 1,000,000 or 0123456789",
    "ÀÉÎõü ß ŋ naïve café",
    "日本語テキスト、中文。한국어",
    "мир עברית العربية हिन्दी ไทย",
    "🙂🏽 👨\u200d👩\u200d👧 🇫🇷 e\u0301",
    "\u00a0no-break\u2003em space\u3000ideographic",
    "\ufffd \x00 \x7f \ufeff",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "https://example.org/a_b?c=d&e=%20#f",
    "!!!???...---___***",
)
