//! Which part of an answer is the value: the part of Kubernetes' JSONPath that names fields.

use serde_json::Value;

/// A path such as `{$.data.items[0].rate}` or `{.status.conditions[?(@.type=="Ready")].status}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    /// The items whose field is this text.
    Where(String, String),
    /// All items.
    All,
}

/// Most steps of a path.
const MOST_STEPS: usize = 64;

impl Path {
    /// Reads a path, with or without its braces.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{text}` is no path that is known here: {why}");
        let inner = text.trim();
        let inner = match (inner.strip_prefix('{'), inner.strip_suffix('}')) {
            (Some(_), Some(_)) => inner.get(1..inner.len() - 1).unwrap_or_default().trim(),
            (None, None) => inner,
            _ => return Err(wrong("a brace is missing")),
        };
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == MOST_STEPS {
                return Err(wrong("it is too long"));
            }
            let (step, after) = if let Some(after) = rest.strip_prefix('[') {
                bracket(after).map_err(|w| wrong(&w))?
            } else {
                field(rest, steps.is_empty()).map_err(|w| wrong(&w))?
            };
            steps.extend(step);
            rest = after;
        }
        Ok(Self(steps))
    }

    /// The first value under it.
    pub fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|v| step.of(v)).collect();
        }
        found.into_iter().next()
    }
}

impl Step {
    fn of<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(n) => {
                let from_end = i64::try_from(items.len()).unwrap_or(i64::MAX).saturating_add(*n);
                let index = usize::try_from(if *n < 0 { from_end } else { *n }).ok();
                index.and_then(|i| items.get(i)).into_iter().collect()
            }
            Self::Where(name, text) => {
                items.iter().filter(|v| v.get(name).and_then(Value::as_str) == Some(text)).collect()
            }
            Self::All => match value {
                Value::Object(map) => map.values().collect(),
                _ => items.iter().collect(),
            },
        }
    }
}

/// A field after a dot; the first one needs none.
fn field(rest: &str, first: bool) -> Result<(Option<Step>, &str), String> {
    let name = match rest.strip_prefix('.') {
        Some(name) if name.starts_with('.') => return Err("`..` is not known".to_owned()),
        Some("") if first => return Ok((None, "")),
        Some(name) if name.starts_with('[') => return Ok((None, name)),
        Some(name) => name,
        None if first => rest,
        None => return Err(format!("`{rest}` is not expected")),
    };
    // A dot in a name is escaped, as kubectl has it.
    let mut out = String::new();
    let mut chars = name.char_indices();
    let mut end = name.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            c if c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '*' | ':' | '@') => {
                out.push(c);
            }
            c => return Err(format!("`{c}` is not expected")),
        }
    }
    let after = name.get(end..).unwrap_or_default();
    match out.as_str() {
        "" => Err("the name of a field is missing".to_owned()),
        "*" => Ok((Some(Step::All), after)),
        _ => Ok((Some(Step::Field(out)), after)),
    }
}

/// What stands in brackets.
fn bracket(rest: &str) -> Result<(Option<Step>, &str), String> {
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let inner = rest.get(1..).unwrap_or_default();
        let (name, after) = inner.split_once(quote).ok_or("a quote is missing")?;
        let after = after.strip_prefix(']').ok_or("`]` is missing")?;
        return Ok((Some(Step::Field(name.to_owned())), after));
    }
    let (inner, after) = rest.split_once(']').ok_or("`]` is missing")?;
    if inner == "*" {
        return Ok((Some(Step::All), after));
    }
    if let Some(test) = inner.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (name, text) = test.split_once("==").ok_or("only `==` is known in a filter")?;
        let name = name.trim().strip_prefix("@.").ok_or("a filter begins with `@.`")?;
        let text = text.trim().trim_matches(|c| matches!(c, '\'' | '"'));
        return Ok((Some(Step::Where(name.to_owned(), text.to_owned())), after));
    }
    match inner.trim().parse() {
        Ok(index) => Ok((Some(Step::Index(index)), after)),
        Err(_) => Err(format!("`[{inner}]` is neither an index nor a name in quotes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let object = json!({"data": {"ok": true, "list": [{"a": 1}, {"a": 2, "t": "x"}], "a.b": 3},
            "metadata": {"labels": {"example.com/region": "eu"}}});
        for (path, found) in [
            ("{$}", Some(object.clone())),
            ("", Some(object.clone())),
            ("{$.data.ok}", Some(json!(true))),
            ("{.data.list[1].a}", Some(json!(2))),
            ("$.data.list[-1].a", Some(json!(2))),
            ("{.data.list[*].a}", Some(json!(1))),
            ("{.data.list[?(@.t==\"x\")].a}", Some(json!(2))),
            ("{.data['a.b']}", Some(json!(3))),
            ("{.data.a\\.b}", Some(json!(3))),
            ("metadata.labels['example.com/region']", Some(json!("eu"))),
            ("{.data.nothing}", None),
            ("{.data.list[7]}", None),
        ] {
            assert_eq!(Path::parse(path).unwrap().find(&object).cloned(), found, "{path}");
        }
        for bad in ["{.a", "{..a}", "{.a[}", "{.a[b]}", "{.a[?(@.b>1)]}", "{.a b}", "{.a['b}"] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
    }
}
