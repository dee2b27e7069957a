"""Tests of the caption-leak check: which trajectories reveal that a description was read, in English and Chinese."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_cli.verifier.caption_leak import mentions_caption

GUILTY = [
    "The description says that the triangle is red.",
    "According to the description, the bar for 2019 is the highest.",
    "Based on the provided description, AB is 5.",
    "based on the image description, there are three dogs",
    "From the caption, I can tell that the circle has radius 4.",
    "The caption mentions a right angle at B.",
    "The caption provided does not say how long AC is.",
    "Wait, the description doesn't mention the colour of the square.",
    "The given description is ambiguous here.",
    "The description of the image states that there are two circles.",
    "I only have the description, so I cannot see the image.",
    "Let me re-read the description.",
    "as described in the text, the line passes through A",
    "The visual information says that the slope is 2.",
    "Using the given visual information, we find x = 3.",
    "In the description, point D lies on BC.",
    "Hmm, your description gives two values.",
    "The textual description lists five bars.",
    "The description I was given says 12.",
    "The figure description indicates AB ∥ CD.",
    "根据描述，三角形ABC是直角三角形。",
    "根据图片描述，图中有三个圆。",
    "描述中提到AB=5。",
    "从给出的描述来看，圆的半径是4。",
    "图像描述中没有说明颜色。",
    "根据提供的视觉信息，答案是5。",
    "文字描述里说一共有五根柱子。",
    "按照上述描述，点D在BC上。",
    "描述没有提到角B的大小。",
]
INNOCENT = [
    "The caption of the figure in the image reads 'Figure 2'.",
    "The image shows a red triangle.",
    "In the image, AB is 5 and BC is 8.",
    "The figure's caption is 'Sales in 2019'.",
    "The caption below the figure says that the scale is 1:100.",
    "The chart's caption says 'Population by year'.",
    'Below the photo there is a caption: "Paris, 1920".',
    "The problem description asks for the area.",
    "According to the problem description, the train leaves at noon.",
    "The description of the problem says that x is positive.",
    "Which option best describes the graph?",
    "The motion is described by the equation s = 5t.",
    "Let me describe what I see: a circle and a square.",
    "The curve described by the point P is a circle.",
    "A description of the process is asked for.",
    "The cartoon is captioned 'Progress'.",
    "The job description in the picture lists three duties.",
    "We can see a table with a small caption in the corner.",
    "The image provides visual cues.",
    "根据题目描述，小明有5个苹果。",
    "题目的描述是求面积。",
    "图中的标题写着“图2”。",
    "下列关于图像的描述正确的是",
    "该函数描述了物体的运动。",
    "图中显示AB=5。",
    "根据图片，三角形是红色的。",
    "选项B的描述正确。",
]


@pytest.mark.parametrize("text", GUILTY)
def test_who_speaks_of_a_description_has_read_one(text: str) -> None:
    assert mentions_caption(text)
    assert mentions_caption("Let me think. " * 400 + text + " So the answer is \\boxed{5}.")


@pytest.mark.parametrize("text", INNOCENT)
def test_who_speaks_of_the_image_or_of_what_is_in_it_is_innocent(text: str) -> None:
    assert not mentions_caption(text)


@given(st.text(max_size=400))
def test_any_text_is_judged(text: str) -> None:
    assert mentions_caption(text) in (True, False)


@given(st.sampled_from(GUILTY), st.text(alphabet="abc .\n", max_size=200), st.text(alphabet="abc .\n", max_size=200))
def test_surrounding_text_does_not_hide_it(text: str, before: str, after: str) -> None:
    assert mentions_caption(f"{before}\n{text}\n{after}")
