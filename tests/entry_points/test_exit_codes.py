"""What a command ends with."""

from __future__ import annotations

import pytest

from iql.commands.exit_codes import exit_code_of, report
from iql.errors import UserError


def interrupted_in_a_library() -> int:
    """Ctrl-C, after which the library fails when it cleans up, which is told as an error of the user's."""
    try:
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("half-made")
    except AttributeError as error:
        raise UserError(f"network: {error}") from None


def test_an_error_that_ctrl_c_led_to_is_ctrl_c(capsys):
    assert exit_code_of(interrupted_in_a_library, "nothing is lost") == 130
    assert capsys.readouterr().err.endswith(": nothing is lost\n")
    with pytest.raises(UserError) as caught:
        interrupted_in_a_library()
    with pytest.raises(KeyboardInterrupt):
        report(caught.value, "train.py")


def test_an_error_of_the_users_is_one_line(capsys):
    def refused() -> int:
        raise UserError("network: half-made")

    assert exit_code_of(refused, "nothing is lost") == 1
    assert capsys.readouterr().err.endswith(": network: half-made\n")
