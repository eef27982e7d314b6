"""Chat templates: what transformers renders, and templates that mean harm."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from rtp_core.errors import ModelError, RequestError
from rtp_core.text.chat_template import render

CHAT = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "  Hi 世界 'x' \"y\"\n"},
    {"role": "assistant", "content": "Hello<think>a</think> b"},
    {"role": "user", "content": "Bye"},
]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nDefault<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = """{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system = messages[0]['content'].strip() %}
{% else %}
    {%- set loop_messages = messages %}
{% endif %}
{% for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' -%}
        {{ bos_token + '[INST] ' + (system ~ '\n' if loop.first and system is defined else '')
            + (message['content'] | trim) }} [/INST]
    {%- else %}
        {{- ' ' + message['content'].split('</think>')[-1].lstrip() + eos_token -}}
    {%- endif %}
{%- endfor %}"""
PYTHONIC = """{%- set ns = namespace(n=0, last='') -%}
{%- for m in messages if m.content.startswith(' ') or m.role != 'user' %}
{%- for k, v in m.items() %}{{ k.upper() }}={{ v | tojson }};{% endfor %}
{%- set ns.n = ns.n + 1 %}{% set ns.last = m['role'] %}
{%- endfor %}
{{ ns.n }} {{ ns.last.title() }} {{ messages | length }} {{ messages[::-1][0].content }}
{{ none is none }} {{ tools is none }}
{% generation %}{{ 'x'.replace('x', 'y') }}{% endgeneration %}
{%- if missing is defined %}no{% endif %}
{%- for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}"""


@pytest.mark.parametrize("template", [CHATML, LLAMA2, PYTHONIC], ids=["chatml", "llama2", "pythonic"])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("start", [0, 1])
def test_templates_render_as_transformers_renders_them(template: str, prompt: bool, start: int) -> None:
    theirs, _ = render_jinja_template(
        [CHAT[start:]], chat_template=template, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
    )
    ours = render(template, CHAT[start:], add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
    assert ours == theirs[0]


def test_the_date_is_the_callers() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}", CHAT, now=datetime(2024, 7, 26)) == "26 Jul 2024"


def test_tojson_does_not_escape_for_html() -> None:
    assert render("{{ messages[0].content | tojson }}", CHAT) == '"Be <brief> & kind."'
    assert render("{{ {'é': 1} | tojson(indent=2) }}", CHAT) == '{\n  "é": 1\n}'


def test_variables_reach_the_template_but_do_not_replace_the_messages() -> None:
    assert render("{{ enable_thinking }}", CHAT, enable_thinking=False) == "False"
    assert render("{{ tools[0].name }}", CHAT, tools=[{"name": "f"}]) == "f"


def test_a_template_can_refuse_the_messages() -> None:
    with pytest.raises(RequestError, match="roles must alternate"):
        render(LLAMA2, [CHAT[1], CHAT[1]])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        {"role": "user", "content": "x"},
        ["x"],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": 3, "content": "x"}],
        [{"role": "user", "content": "x\ud800"}],
        [{"role": "user", "content": [{"type": "text"}]}],
    ],
)
def test_messages_without_role_and_content_are_refused(messages: Any) -> None:
    with pytest.raises(RequestError, match="message"):
        render(CHATML, messages)


@pytest.mark.parametrize(
    "template",
    ["{% if %}", "{{", "{% for x in messages %}", "{{ messages | nothing }}", "{{ a.b.c }}", "{{ strftime_now(3) }}"],
)
def test_an_invalid_template_is_a_model_error(template: str) -> None:
    with pytest.raises(ModelError, match="bad chat template"):
        render(template, CHAT)


LOOP = "{% for a in range(10000) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize(
    "template",
    [
        LOOP,
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'ab' * 3000000 }}",
        "{{ 'a' * 100000000000 }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ messages.__class__.__mro__[1] }}",
        "{{ (''.__class__.__base__.__subclasses__)() }}",
        "x" * ((1 << 20) + 1),
    ],
)
def test_a_template_that_means_harm_gets_nowhere(template: str) -> None:
    with pytest.raises(ModelError):
        render(template, CHAT)


def test_long_chats_have_fuel_enough() -> None:
    long = [{"role": "user", "content": "x" * 100}] * 5000
    assert render(CHATML, long).count("<|im_start|>user") == 5000


def test_the_default_models_template_renders(default_model_path: Any) -> None:
    from rtp_core.checkpoint.opening import open_checkpoint

    template = open_checkpoint(default_model_path).chat_template
    assert template is not None
    text = render(template, [{"role": "user", "content": "Hi"}])
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert text.startswith("<|im_start|>system\n")
