"""Samples, scores, and plain functions as rewards."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Outcome, Reward, Sample, Score, Tags
from grpo_core.rewards import as_score, reward_from_function, split_reasoning


def sample(completion, prompt="p", **kwargs):
    return Sample(prompt=prompt, completion=completion, **kwargs)


class TestSplitReasoning:
    @pytest.mark.parametrize(
        ("text", "reasoning", "answer"),
        [
            ("<think>a</think><answer>7</answer>", "a", "7"),
            ("<think>a</think>\n\n7", "a", "7"),
            ("a</think>7", "a", "7"),  # the template opened the tag
            ("only an answer", "", "only an answer"),
            ("<think>cut off", "cut off", ""),
            ("<think>a</think><answer>cut off", "a", "cut off"),
            # a box in a second thought is no answer
            ("<think>a</think>7<think>b</think>", "a\nb", "7"),
            ("<think>a</think><answer>6</answer><answer>7</answer>", "a", "7"),
            (
                "<think>a</think><answer>6</answer><think><answer>7</answer></think>",
                "a\n<answer>7</answer>",
                "6",
            ),
            ("", "", ""),
        ],
    )
    def test_parts(self, text, reasoning, answer):
        assert split_reasoning(text) == (reasoning, answer)

    def test_a_prompt_that_ends_with_the_tag_has_opened_it(self):
        judged = sample("never closed", prompt="Question\n<think>\n")
        assert (judged.reasoning_text, judged.answer_text) == ("never closed", "")

    def test_a_completion_that_opens_the_tag_again_is_split_the_same(self):
        judged = sample("<think>a</think>7", prompt="Question <think>")
        assert (judged.reasoning_text, judged.answer_text) == ("a", "7")

    def test_other_tags(self):
        judged = sample("<reason>a</reason><final>7</final>", tags=Tags("reason", "final"))
        assert (judged.reasoning_text, judged.answer_text) == ("a", "7")

    @given(st.text(alphabet="ab<>/", max_size=30), st.text(alphabet="ab", max_size=5))
    def test_what_is_thought_is_never_answered(self, thought, answer):
        reasoning, answered = split_reasoning(f"<think>{thought}</think>{answer}")
        assert answered == answer.strip()
        assert reasoning == thought.strip()


class TestSample:
    def test_chat_completion_is_its_last_assistant_message(self):
        judged = sample(
            [
                {"role": "assistant", "content": "first"},
                {"role": "user", "content": "and?"},
                {"role": "assistant", "content": [{"type": "text", "text": "<think>b</think>7"}]},
            ],
            prompt=[{"role": "user", "content": "q"}],
        )
        assert judged.completion_text == "<think>b</think>7"
        assert judged.answer_text == "7"
        assert judged.prompt_text == "q"

    def test_reasoning_content_is_the_reasoning(self):
        message = {"role": "assistant", "content": "7", "reasoning_content": "because"}
        judged = sample([message])
        assert (judged.reasoning_text, judged.answer_text) == ("because", "7")

    def test_an_empty_conversation_has_no_text(self):
        assert sample([]).completion_text == ""
        assert sample([{"role": "assistant", "content": None}]).answer_text == ""


class TestScore:
    def test_none_abstains(self):
        assert Score(None).outcome is Outcome.abstained

    @pytest.mark.parametrize("bad", [(None, Outcome.scored), (1.0, Outcome.error)])
    def test_value_and_outcome_must_agree(self, bad):
        with pytest.raises(ValueError, match="go together"):
            Score(*bad)

    @pytest.mark.parametrize(
        ("raw", "value", "outcome"),
        [
            (1, 1.0, "scored"),
            (True, 1.0, "scored"),
            (Score(0.5, reason="half"), 0.5, "scored"),
            (None, None, "abstained"),
            (math.nan, None, "invalid"),
            (math.inf, None, "invalid"),
            (1.5, None, "invalid"),
            (Score(-0.1), None, "invalid"),
            ("1.0", None, "invalid"),
            ([1.0], None, "invalid"),
        ],
    )
    def test_what_a_reward_returned_becomes_a_score(self, raw, value, outcome):
        score = as_score(raw, range=(0.0, 1.0))
        assert (score.value, score.outcome.value) == (value, outcome)
        if outcome == "invalid":
            assert score.reason

    def test_one_element_tensors_are_numbers_and_longer_ones_are_not(self):
        torch = pytest.importorskip("torch")
        assert as_score(torch.tensor(0.5)).value == 0.5
        assert as_score(torch.ones(2)).outcome is Outcome.invalid


class TestOptions:
    class Limited(Reward):
        class Options(Reward.Options):
            limit: int = 200

    def test_options_are_checked(self):
        assert self.Limited(limit=3).options.limit == 3
        with pytest.raises(ValueError, match="limits"):
            self.Limited(limits=3)


class TestPlainFunctions:
    def test_gets_columns_by_name_and_texts_for_plain_prompts(self):
        def exact(prompts, completions, answer, **columns):
            assert prompts == ["p", "p"]
            assert columns["level"] == [1, 2]
            return [float(c == a) for c, a in zip(completions, answer, strict=True)]

        reward = reward_from_function(exact)()
        rows = [sample("7", columns={"answer": "7", "level": n}) for n in (1, 2)]
        assert reward.score_batch(rows) == [1.0, 1.0]
        assert reward.requires == ("answer",)

    def test_gets_messages_for_chat_prompts(self):
        def said(completions, **_):
            return [float(completion[0]["content"] == "7") for completion in completions]

        chat = sample("7", prompt=[{"role": "user", "content": "q"}])
        assert reward_from_function(said)().score(chat) == 1.0

    def test_may_be_async(self):
        async def later(prompts, completions, **_):
            await asyncio.sleep(0)
            return [0.5]

        assert asyncio.run(reward_from_function(later)().score(sample("x"))) == 0.5

    def test_log_extra_and_log_metric_become_details(self):
        def noted(completions, log_extra, log_metric, **_):
            log_extra("length", [len(c) for c in completions])
            log_extra("text", completions)
            log_metric("share", 0.25)
            return [1.0, None]

        first, second = reward_from_function(noted)().score_batch([sample("abc"), sample("")])
        assert first.details == {"length": 3.0, "share": 0.25}
        assert second.outcome is Outcome.abstained

    def test_completion_ids_come_where_they_are_known(self):
        def count(completion_ids, **_):
            return [float(len(ids)) for ids in completion_ids]

        assert reward_from_function(count)().score(sample("x", completion_ids=[1, 2])) == 2.0

    def test_trainer_state_is_refused_by_name(self):
        def stateful(completions, trainer_state):
            return [0.0]

        with pytest.raises(TypeError, match="'trainer_state'"):
            reward_from_function(stateful)
