"""The template environment: what templates may use, and what they may not."""

from __future__ import annotations

import datetime

import pytest

from terrazzo.models.chat_template import ChatTemplate
from terrazzo.models.errors import ChatTemplateError

USER = [{"role": "user", "content": "hé <b> 'q'"}]


def render(source: str, **variables: object) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(USER, variables=variables)


def test_messages_tokens_and_the_flag_are_seen() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ messages[0].role }}{% if add_generation_prompt %}>{% endif %}",
        {"bos_token": "<s>"},
    )
    assert template.render(USER) == "<s>user>"
    assert template.render(USER, add_generation_prompt=False) == "<s>user"


def test_blocks_leave_no_blank_lines() -> None:
    assert render(
        "{% for m in messages %}\n    {% if true %}\nx\n    {% endif %}\n{% endfor %}"
    ) == ("x\n")


def test_json_keeps_letters_and_signs() -> None:
    assert render("{{ messages[0].content | tojson }}") == "\"hé <b> 'q'\""
    assert render("{{ x | tojson(indent=2) }}", x={"b": 1}) == '{\n  "b": 1\n}'


def test_loop_controls_and_namespaces_work() -> None:
    source = (
        "{% set n = namespace(x=0) %}{% for i in range(9) %}{% if i > 3 %}{% break %}{% endif %}"
    )
    assert render(source + "{% set n.x = n.x + i %}{% endfor %}{{ n.x }}") == "6"


def test_generation_marks_change_nothing() -> None:
    assert render("a{% generation %}b{{ bos_token }}{% endgeneration %}c") == "ab<s>c"


def test_today_is_known() -> None:
    years = {str(datetime.datetime.now().year - back) for back in (0, 1)}
    assert render("{{ strftime_now('%Y') }}") in years


def test_variables_are_seen_but_do_not_replace_messages() -> None:
    assert render("{{ tools[0] }}{{ messages[0].role }}", tools=["t"], messages=[]) == "tuser"


def test_what_a_template_refuses_is_told() -> None:
    with pytest.raises(ChatTemplateError, match="does not accept these messages: roles must"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__.items() }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{% include 'x' %}",
    ],
)
def test_templates_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        render(source)


def test_a_template_that_is_no_template_is_named() -> None:
    with pytest.raises(ChatTemplateError, match="cannot be compiled"):
        ChatTemplate("{% if %}", {})


def test_messages_are_not_changed_and_needed() -> None:
    messages = [{"role": "user", "content": "x"}]
    ChatTemplate("{{ messages }}", {}).render(messages)
    assert messages == [{"role": "user", "content": "x"}]
    with pytest.raises(ChatTemplateError, match="expected at least one message"):
        ChatTemplate("", {}).render([])
