"""Tests of answers and golds as people have them: each kind with what is equal and what is not."""

import pytest

from sophia_cli.verifier import verify

EQUAL = {
    "dates": [
        ("2024-03-05", "2024/03/05"), ("2024-03-05", "March 5, 2024"), ("5 March 2024", "Mar. 5, 2024"),
        ("2024-03-05", "2024年3月5日"), ("3月5日", "3月5号"), ("January", "Jan"), ("March", "3月"), ("Wednesday", "Wed"),
        ("Sunday", "星期日"), ("the 4th of July 1776", "July 4, 1776"), ("September 2001", "Sept. 2001"),
        ("三月", "March"), ("二零二四年三月五日", "2024-03-05"), ("Tuesday, March 5, 2024", "March 5, 2024"),
        ("on Wednesday", "Wednesday"), ("2024-03", "March 2024"), ("5-Mar-2024", "2024-03-05"),
        ("Mon and Tue", "Monday, Tuesday"), ("Monday to Friday", "Mon to Fri"),
    ],
    "clock": [
        ("15:30", "下午3:30"), ("9:00 AM", "上午9:00"), ("12:00 PM", "noon"),
        ("12:00 AM", "midnight"), ("正午", "12:00 PM"),
        ("15:30", "下午三点半"), ("16:15", "下午4点一刻"), ("4:45", "差一刻5点"), ("24:00", "晚上12点"),
        ("11:30 AM", "中午11:30"),
        ("3:30", "half past three"), ("4:45", "a quarter to five"), ("5:00", "five o'clock"), ("5点", "5 o'clock"),
        ("18:00", "6 in the evening"), ("PM 3:30", "15:30"), ("3:25", "twenty-five past three"),
    ],
    "durations": [
        ("200分钟", "3小时20分"), ("1小时30分", "1.5小时"), ("30分钟", "半小时"), ("150秒", "2分30秒"), ("75 min", "1h15m"),
        ("1 hour and 30 minutes", "90 minutes"), ("一个半小时", "90分钟"), ("2小时", "120分钟"),
        ("1小时零5分", "65分钟"), ("一刻钟", "15分钟"), ("half an hour", "30 minutes"), ("an hour and a half", "90 min"),
        ("three quarters of an hour", "45 minutes"), ("2d 3h", "51 h"),
        ("2 h 35 min", "two hours and thirty-five minutes"), ("0 minutes", "zero minutes"),
    ],
    "degrees": [
        ("45°", "45^{o}"), ("45^{\\circ}", "45^o"), ("45°", "45˚"), ("0.5", "\\sin 30°"), ("1", "tan 45°"),
        ("5", "10sin30°"),
        ("20", "\\frac{10}{\\sin 30^\\circ}"), ("\\frac{\\sqrt3}{2}", "sin 60°"),
    ],
    "functions": [
        ("\\arctan 2", "\\operatorname{arctan} 2"), ("\\arctan 2", "atan(2)"), ("2", "lg 100"), ("2", "log10(100)"),
        ("\\sqrt{13}", "sqrt 13"), ("\\sqrt{13}", "sqrt13"), ("2\\sqrt{3}", "2根号3"), ("3", "7 \\bmod 4"),
        ("\\sin x", "sinx"), ("a\\sin\\theta", "asinθ"), ("3", "log2(8)"), ("2", "cbrt(8)"), ("|x|", "abs(x)"),
        ("\\tan x", "tg x"), ("\\arctan 2", "arctg 2"), ("\\frac{\\sqrt3}{2}", "二分之根号三"),
        ("\\sqrt{13}", "square root of 13"),
        ("3", "7 mod 4"),
    ],
    "roots": [
        ("x_1=1, x_2=3", "x=1 or x=3"), ("x₁=1，x₂=3", "x=1或x=3"), ("x_1=x_2=2", "x=2"), ("(1,2)", "点(1,2)"),
        ("(1,2)", "point (1,2)"), ("y_1=1, y_2=3", "y=1 or y=3"), ("x1=1, x2=3", "x=1 or x=3"), ("点P(1,2)", "(1,2)"),
    ],
    "words": [
        ("minus five", "-5"), ("third", "3rd"), ("5th", "the fifth one"),
        ("mg\\sin\\theta", "mgsinθ"), ("1,5 €", "1.5"),
        ("~5~", "5"), ("零下5度", "-5°C"),
    ],
    "formulas": [
        ("H2SO4", "H_2SO_4"), ("H2SO4", "H₂SO₄"), ("Cu2+", "Cu^{2+}"), ("H2O", "\\ce{H2O}"), ("Ca(OH)2", "Ca(OH)_2"),
        ("OH-", "OH^-"), ("2H2 + O2 → 2H2O", "2H_2 + O_2 \\rightarrow 2H_2O"),
        ("2H2 + O2 = 2H2O", "O2 + 2H2 → 2H2O"), ("Fe^{+3}", "Fe^{3+}"), ("SO42-", "SO_4^{2-}"),
        ("CuSO4·5H2O", "CuSO_4\\cdot 5H_2O"),
        ("C_2+C_1", "C_1+C_2"), ("P_1V_1=P_2V_2", "P_2V_2=P_1V_1"), ("2S_1", "S_1+S_1"),
    ],
}  # fmt: skip
UNEQUAL = {
    "dates": [
        ("2024-03-05", "2024-05-03"), ("March 5, 2024", "March 6, 2024"), ("January", "June"),
        ("Wednesday", "Thursday"),
        ("3月5日", "5月3日"), ("March 5", "March 2005"), ("2024-03-05", "2016"), ("2001-2005", "-4"),
        ("Sunday", "sun"), ("Mon, Tue", "Mon, Wed"),
        ("Monday to Friday", "Friday to Monday"),
    ],
    "clock": [
        ("15:30", "上午3:30"), ("12:00 PM", "midnight"), ("noon", "1 PM"), ("0:30", "12:30 PM"), ("晚上1点", "13:00"),
        ("晚上12点", "noon"), ("中午11点", "23:00"),
    ],
    "durations": [("200分钟", "3小时30分"), ("75 min", "1h20m"), ("30分钟", "30秒"), ("5 m", "5分钟"), ("2小时", "2分钟"),
        ("3H", "3小时"), ("5S", "5秒"), ("thirty-five minutes", "25 minutes"),
        ("two hours thirty-five minutes", "2 h 30 min"),
    ],
    "degrees": [("45°", "54^o"), ("0.5", "\\sin 60°"), ("30", "sin 30°"), ("1", "cos 45°")],
    "functions": [("\\arctan 2", "\\arcsin 2"), ("2", "lg 10"), ("\\sqrt{13}", "sqrt 31"), ("3", "7 \\bmod 5"),
        ("x ≡ 3 (mod 5)", "x ≡ 5 (mod 3)"), ("3", "3 mod 7"), ("asinθ", "\\arcsin\\theta"),
    ],
    "roots": [("x_1=1, x_2=3", "x_1=3, x_2=1"), ("x_1=1, x_2=3", "x=1 or x=4"),
        ("x_1=x_2=2", "x=3"), ("(1,2)", "点(2,1)")],
    "words": [
        ("minus five", "5"), ("third", "2nd"), ("five", "fifth"), ("mg\\sin\\theta", "mgcosθ"),
        ("1,5", "1.5"), ("€1,500", "1.5"),
        ("零下5度", "5°C"),
    ],
    "formulas": [("H2SO4", "H_2SO_3"), ("Cu2+", "Cu^{+}"), ("CO", "Co"), ("H2O", "H^2O"),
        ("C2", "C^2"), ("OH-", "OH"),
        ("X2+", "X^{2+}"), ("O_2^-", "O^{2-}"), ("N_3^-", "N^{3-}"), ("Cu2+", "Cu_2^+"), ("CO2", "2CO"), ("O2", "2O"),
        ("2H2O = 2H2 + O2", "2H2 + O2 = 2H2O")],
}  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), [pair for pairs in EQUAL.values() for pair in pairs])
def test_what_is_equal(gold: str, answer: str) -> None:
    assert verify(f"\\boxed{{{answer}}}", {"answer": gold}).verdict == "correct"
    assert verify(f"\\boxed{{{gold}}}", {"answer": answer}).verdict == "correct"


@pytest.mark.parametrize(("gold", "answer"), [pair for pairs in UNEQUAL.values() for pair in pairs])
def test_what_is_not(gold: str, answer: str) -> None:
    assert verify(f"\\boxed{{{answer}}}", {"answer": gold}).verdict != "correct"
    assert verify(f"\\boxed{{{gold}}}", {"answer": answer}).verdict != "correct"


CHOICES = {"choices": ["0", "1", "2", "3"]}


@pytest.mark.parametrize(
    ("response", "gold", "item"),
    [
        ('```json\n{"answer": "17"}\n```', "17", {}),
        ('{"reasoning": "10+7", "final_answer": "17"}', "17", {}),
        ("{'answer': 17}", "17", {}),
        ('So here it is: {"Answer": true}', "yes", {}),
        ("<ANSWER>17</ANSWER>", "17", {}),
        ("<SUMMARY>s</SUMMARY><REASONING>r</REASONING><CONCLUSION>B</CONCLUSION>", "B", {}),
        ("The total is <|begin_of_box|>17<|end_of_box|>", "17", {}),
        ("<think>a</think><answer>The total is <|begin_of_box|>17<|end_of_box|></answer>", "17", {}),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nThe answer is 17.<|eot_id|>", "17", {}),
        ("<answer>So the answer is 17</answer>", "17", {}),
        ("<answer>The shape is a square.</answer>", "square", {}),
        ("\\boxed{\\text{The shape is a square}}", "square", {}),
        ("<answer>Option B is correct.</answer>", "B", CHOICES),
        ("<answer>The number of people is 1.</answer>", "B", CHOICES),
        ("The answer is 17 (not 16).", "17", {}),
        ("The answer is 17, not 16.", "17", {}),
        ("The answer is 17 rather than 16.", "17", {}),
        ("The answer is 17 and not 16.", "17", {}),
        ("The answer is 17; I checked twice.", "17", {}),
        ("The answer is B (not A).", "B", CHOICES),
        ("\\boxed{17}", "<answer> 17 </answer>", {}),
        ("\\boxed{B}", "【答案】B", {}),
        ("\\boxed{B}", "故选：B", {}),
        ("\\boxed{B}", "B. isosceles triangle", {}),
        ("\\boxed{\\text{isosceles triangle}}", "B. isosceles triangle", {}),
        ("\\boxed{30}", "A. 30", {}),
        ("\\boxed{A}", "A: 30", {}),
        ("\\boxed{30}", "(A) 30", {}),
        ("\\boxed{60°}", "D．60°", {}),
        ("\\boxed{0.5}", "C.$\\frac{1}{2}$", {}),
        ("\\boxed{5/12}", "B", {"choices": ["12:5", "5:12", "7:12"]}),
        ("\\boxed{\\frac{6}{\\pi}}", "A", {"choices": ["6:\\pi", "\\pi:6"]}),
        ("(D) because the angle is 30 degrees and the sum is 180.", "D", CHOICES),
        ("(D), because A is wrong.", "D", CHOICES),
        ("(D)\nThe slope is 3.", "D", CHOICES),
        ("(D). The slope is 3.", "D", {}),
        ("**(D)** 4\n\nThe sum of 2 and 2.", "D", CHOICES),
        ("B\n\nExplanation: A is 1, C is 3.", "B", CHOICES),
        ("(D) since (A) is wrong.", "D", CHOICES),
        ('{"steps": {"a": 1}, "answer": 17}', "17", {}),
        ('[{"answer": 17}]', "17", {}),
        ('```json\n{"answer": 17,}\n```\nI hope this helps!', "17", {}),
        ('<answer>{"answer": 17}</answer>', "17", {}),
        ('{"answer": "\\sqrt{2}"}', "\\sqrt{2}", {}),
        ('{"correct_option": "B"}', "B", CHOICES),
        ("<|assistant|>\nThe answer is 17.<|end|>", "17", {}),
        ("<start_of_turn>model\n17<end_of_turn>", "17", {}),
        ("The answer is 17.</s><s>user\nThe answer is 16.", "17", {}),
        ("<result>17</result>", "17", {}),
        ("The answer is not 16 but 17.", "17", {}),
        ("答案不是16，而是17。", "17", {}),
        ("\\boxed{rectangle (not a square)}", "rectangle", {}),
        ("\\boxed{C}", "【答案】C 【解析】因为 A 错误", {}),
        ("\\boxed{C}", "正确答案：C", {}),
        ("\\boxed{12}", "\\textbf{(C)}\\ 12", {}),
        ("\\boxed{30}", "\\boxed{A. 30}", {}),
        ("\\boxed{5}", "<think>7 \\boxed{7}</think>The answer is 5", {}),
    ],
)
def test_what_is_around_an_answer_is_no_part_of_it(response: str, gold: str, item: dict[str, object]) -> None:
    assert verify(response, {**item, "answer": gold}).verdict == "correct"


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ('{"answer": "16"}', "17"),
        ('{"reasoning": "17", "answer": "16"}', "17"),
        ("<answer>The number is 16, close to 17.</answer>", "17"),
        ("The answer is 16 (not 17).", "17"),
        ("The answer is 16 rather than 17.", "17"),
        ("<|begin_of_box|>16<|end_of_box|> or 17", "17"),
        ("\\boxed{B}", "A. 30"),
        ("\\boxed{31}", "A. 30"),
        ("\\boxed{A}", "故选：B"),
        ("\\boxed{12/5}", "5:12"),
        ("\\boxed{A}", "A、C、D"),
        ("\\boxed{A}", "(A)(B)"),
        ("\\boxed{B}", "A、B"),
        ("\\boxed{A}", "A. 30; B. 40"),
        ("\\boxed{A}", "A) or C"),
        ("\\boxed{A. square}", "B. square"),
        ("\\boxed{H}", "H: 2, O: 1"),
        ("The answer is 17; I mean 16.", "17"),
        ("\\boxed{x>3 and not 5}", "x>3"),
        ("\\boxed{5 (not counting the 2 on the left)}", "5"),
        ("(D) is wrong.", "D"),
        ("(A)\nNo, it must be (C).", "A"),
        ("(A) is too small, so (D).", "A"),
        ("(D) was my first guess.", "D"),
        ("Anything but (D)", "D"),
        ('The answer is 16.<|endoftext|>{"answer": 17}', "17"),
        ('{"answer": 17, "final_answer": 16}', "17"),
        ("Nothing here is a square.", "square"),
    ],
)
def test_another_answer_stays_wrong(response: str, gold: str) -> None:
    assert verify(response, {"answer": gold}).verdict != "correct"
