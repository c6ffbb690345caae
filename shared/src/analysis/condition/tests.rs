//! The language, row by row, and that nothing breaks it.

use super::{Condition, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn ask(text: &str, result: &Json) -> Result<bool, String> {
    Condition::parse(text).map_err(|e| e.to_string())?.holds(&Value::from(result))
}

#[test]
fn conditions_that_templates_use_hold_as_they_do_there() {
    let rows: [(&str, Json, bool); 35] = [
        ("result[0] >= 0.95", json!([0.95]), true),
        ("result[0] >= 0.95", json!([0.94]), false),
        ("len(result) == 0 || result[0] >= 0.95", json!([]), true),
        ("len(result) > 0 && result[0] >= 0.95", json!([]), false),
        ("result == true", json!(true), true),
        ("result == 'true'", json!("true"), true),
        ("result == \"It worked!\"", json!("It worked!"), true),
        (
            "result.ok && result.successPercent >= 0.90",
            json!({"ok": true, "successPercent": 0.9}),
            true,
        ),
        ("default(result, 0) < 0.05", json!(null), true),
        ("default(result, 0) < 0.05", json!(0.2), false),
        ("isNil(result) or result < 3", json!(null), true),
        ("result ?? 7 == 7", json!(null), true),
        ("all(result, # < 1000)", json!([1, 999]), true),
        ("all(result, {# < 1000})", json!([1, 1000]), false),
        (
            "len(result[0].Values) >= 2 and all(result[0].Values, {# <= 0.01})",
            json!([{"Values": [0, 0.01]}]),
            true,
        ),
        (
            "all(result.apdex.values, {asFloat(.value) >= 9900})",
            json!({"apdex": {"values": [{"value": "9900"}]}}),
            true,
        ),
        ("any(result, {#.code == 500})", json!([{"code": 200}, {"code": 500}]), true),
        ("none(result, {# > 1})", json!([0, 1]), true),
        ("one(result, {# == 1})", json!([0, 1, 1]), false),
        ("count(result, # > 1) == 2", json!([1, 2, 3]), true),
        ("asInt(result) == 3", json!("3"), true),
        ("asFloat(result) > 2.5", json!("2.75"), true),
        ("(result.made * result.ok / 100) >= 90", json!({"made": 100, "ok": 95}), true),
        ("result.status == -1", json!({"status": -1}), true),
        ("result in [200, 204]", json!(204), true),
        ("result not in [200, 204]", json!(500), true),
        ("not (result > 3)", json!(2), true),
        ("result > 1 ? result < 3 : result == 0", json!(2), true),
        ("2 ** 3 ** 2 == 512 && 1 - 2 - 3 == -4 && 7 % 4 == 3", json!(0), true),
        ("1 + 2 * 3 == 7 and -2 * 3 == -6", json!(0), true),
        ("result['a-b']?.c == nil", json!({}), true),
        ("result[-1] == 3", json!([1, 2, 3]), true),
        (
            "result contains 'rro' && result startsWith 'e' && result endsWith \"r\"",
            json!("error"),
            true,
        ),
        (
            "max(result) - min(result) <= 2 && sum(result) == 6 && mean(result) == 2",
            json!([1, 2, 3]),
            true,
        ),
        ("lower(trim(result)) == \"ok\" && abs(-1.5e1) == 15", json!(" OK "), true),
    ];
    for (text, result, holds) in rows {
        assert_eq!(ask(text, &result), Ok(holds), "{text}");
    }
}

#[test]
fn nan_is_neither_more_nor_less_and_asks_for_itself() {
    let nan = Value::List(vec![Value::Number(f64::NAN)]);
    let holds = |text: &str| Condition::parse(text).unwrap().holds(&nan);
    assert_eq!(holds("result[0] >= 0.95"), Ok(false));
    assert_eq!(holds("result[0] < 0.95"), Ok(false));
    assert_eq!(holds("isNaN(result[0]) || result[0] >= 0.95"), Ok(true));
    assert_eq!(holds("isInf(result[0])"), Ok(false));
    assert_eq!(holds("isNaN(max(result))"), Ok(true));
    assert!(nan.is_no_data() && Value::List(vec![]).is_no_data() && Value::Nil.is_no_data());
    assert!(!Value::List(vec![Value::Number(f64::NAN), Value::Number(1.0)]).is_no_data());
    assert!(!Value::Text(String::new()).is_no_data());
    for (text, asks) in [
        ("result[0] >= 0.95", false),
        ("all(result, # > 1)", false),
        ("isNaN(result[0]) || result[0] >= 1", true),
        ("len(result) > 0 && result[0] > 1", true),
        ("default(result, 0) < 1", true),
        ("(result ?? 0) < 1", true),
        ("result == nil || result > 1", true),
    ] {
        assert_eq!(Condition::parse(text).unwrap().asks_for_data(), asks, "{text}");
    }
}

#[test]
fn what_is_unknown_is_refused_with_its_position() {
    for (text, says) in [
        ("results[0] > 1", "`results` is unknown; the measured value is `result` at character 1"),
        ("result > ", "the end is not expected at character 10"),
        ("result matches \"a\"", "`matches` is not expected at character 8"),
        ("upper(result) == 'A' @", "`@` means nothing at character 22"),
        ("now() > 1", "there is no function `now` at character 1"),
        ("len(result, 1) > 1", "`len` takes 1 and not 2 values at character 1"),
        ("result[0 > 1", "`]` is missing before the end"),
        ("result = 1", "`=` means nothing"),
        ("'abc", "no closing '"),
        ("# > 1", "`#` stands only in a predicate"),
        ("1..9999999999", "`..` is not expected"),
        ("result.foo()", "`.foo()` is not known here"),
        ("{'a': 1}.a == 1", "`{` is not expected"),
        ("", "the end is not expected"),
    ] {
        let error = Condition::parse(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn what_cannot_be_said_is_an_error_and_no_answer() {
    for (text, result) in [
        ("result[0] > 1", json!([])),
        ("result.a.b > 1", json!({})),
        ("result > 1", json!("2")),
        ("result", json!(1)),
        ("result && true", json!(1)),
        ("asInt(result) > 1", json!("x")),
        ("len(result) > 1", json!(4)),
        ("mean(result) > 1", json!([])),
        ("isNaN(result)", json!([1])),
    ] {
        assert!(ask(text, &result).is_err(), "{text} of {result}");
    }
}

#[test]
fn deep_long_and_costly_conditions_end() {
    for deep in [
        "(".repeat(2000),
        "!".repeat(2000),
        "[".repeat(2000),
        "-".repeat(2000),
        format!("1{}", " + 1".repeat(800)),
        format!("result{}", "[0]".repeat(1000)),
        format!("result{}", ".a".repeat(1000)),
        "not ".repeat(900),
        "true ? ".repeat(500),
        "x".repeat(5000),
    ] {
        assert!(Condition::parse(&deep).is_err(), "{}", &deep[..20]);
    }
    let square = Condition::parse("all(result, {all(result, {all(result, {true})})})").unwrap();
    let long = Value::List(vec![Value::Bool(true); 1000]);
    assert!(square.holds(&long).is_err_and(|e| e.contains("steps")));
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<f64>().prop_map(|n| json!(n)),
        "[a-c]{0,3}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|m| json!(m)),
        ]
    })
}

proptest! {
    /// Whatever is written and whatever was measured: an answer or an error, and no panic.
    #[test]
    fn any_text_and_any_result_are_survived(text in ".{0,80}", result in json()) {
        let _ = ask(&text, &result);
    }

    #[test]
    fn any_sequence_of_words_is_survived(
        words in prop::collection::vec(prop::sample::select(vec![
            "result", "[", "]", "(", ")", "0", "1.5", "-1", "'a'", ".a", "?.", "??", "&&", "||",
            "!", "==", "<", ">=", "in", "not", "len(", "all(", "filter(", "map(", "#", "{", "}", ",", "+", "*", "/",
            "**", "%", "?", ":", "nil", "true", "isNaN(", "default(", "max(", "e9", "_", "..",
        ]), 0..24),
        result in json(),
    ) {
        let _ = ask(&words.join(" "), &result);
        let _ = ask(&words.concat(), &result);
    }

    /// Comparisons are those of numbers.
    #[test]
    fn arithmetic_is_that_of_numbers(a in -1e6..1e6f64, b in -1e6..1e6f64) {
        let of = json!([a, b]);
        prop_assert_eq!(ask("result[0] < result[1]", &of), Ok(a < b));
        prop_assert_eq!(ask("result[0] + result[1] >= 0", &of), Ok(a + b >= 0.0));
        prop_assert_eq!(ask("!(result[0] < result[1]) == (result[0] >= result[1])", &of), Ok(true));
        prop_assert_eq!(ask("result[0] - result[1] == -(result[1] - result[0])", &of), Ok(true));
    }
}
