//! A tree and a result to a value, within a fixed number of steps.

use super::parse::{Call, Each, Node, Op};
use super::{MOST_STEPS, Value};
use std::borrow::Cow;

type Found<'a> = Result<Cow<'a, Value>, String>;

/// Evaluates an expression about a result.
pub(super) fn run(node: &Node, result: &Value) -> Result<Value, String> {
    let mut walk = Walk { result, left: MOST_STEPS };
    walk.value(node, None).map(Cow::into_owned)
}

struct Walk<'a> {
    result: &'a Value,
    left: usize,
}

#[expect(clippy::unnecessary_wraps, reason = "it is what every branch gives")]
fn number(value: f64) -> Found<'static> {
    Ok(Cow::Owned(Value::Number(value)))
}

#[expect(clippy::unnecessary_wraps, reason = "it is what every branch gives")]
fn truth(is: bool) -> Found<'static> {
    Ok(Cow::Owned(Value::Bool(is)))
}

impl<'a> Walk<'a> {
    fn value<'n: 'a>(&mut self, node: &'n Node, item: Option<&'a Value>) -> Found<'a> {
        self.step()?;
        match node {
            Node::Just(value) => Ok(Cow::Borrowed(value)),
            Node::Result => Ok(Cow::Borrowed(self.result)),
            Node::Item => item.map(Cow::Borrowed).ok_or_else(|| "`#` has no item".to_owned()),
            Node::List(all) => {
                let all = all.iter().map(|n| self.value(n, item).map(Cow::into_owned));
                Ok(Cow::Owned(Value::List(all.collect::<Result<_, _>>()?)))
            }
            Node::Not(inner) => truth(!self.bool(inner, item)?),
            Node::Minus(inner) => number(-self.number(inner, item)?),
            Node::Choose(test, yes, no) => {
                let chosen = if self.bool(test, item)? { yes } else { no };
                self.value(chosen, item)
            }
            Node::Both(op, a, b) => self.both(*op, a, b, item),
            Node::Inside(of, key, maybe) => {
                let of = self.value(of, item)?;
                let key = self.value(key, item)?;
                self.inside(of, &key, *maybe)
            }
            Node::Call(call, given) => {
                let given = given.iter().map(|n| self.value(n, item)).collect::<Result<_, _>>()?;
                self.call(*call, given)
            }
            Node::Each(each, of, test) => self.each(*each, of, test, item),
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.spend(1)
    }

    fn spend(&mut self, steps: usize) -> Result<(), String> {
        let left = self.left.checked_sub(steps);
        self.left = left.ok_or_else(|| format!("it takes more than {MOST_STEPS} steps"))?;
        Ok(())
    }

    fn bool<'n: 'a>(&mut self, node: &'n Node, item: Option<&'a Value>) -> Result<bool, String> {
        match self.value(node, item)?.as_ref() {
            Value::Bool(is) => Ok(*is),
            other => Err(format!("{} is neither true nor false", other.kind())),
        }
    }

    fn number<'n: 'a>(&mut self, node: &'n Node, item: Option<&'a Value>) -> Result<f64, String> {
        as_number(self.value(node, item)?.as_ref())
    }

    fn both<'n: 'a>(
        &mut self,
        op: Op,
        a: &'n Node,
        b: &'n Node,
        item: Option<&'a Value>,
    ) -> Found<'a> {
        match op {
            Op::Or => return truth(self.bool(a, item)? || self.bool(b, item)?),
            Op::And => return truth(self.bool(a, item)? && self.bool(b, item)?),
            Op::Else => {
                let first = self.value(a, item)?;
                return if *first == Value::Nil { self.value(b, item) } else { Ok(first) };
            }
            _ => {}
        }
        let (a, b) = (self.value(a, item)?, self.value(b, item)?);
        self.spend(size(&a) + size(&b))?;
        binary(op, &a, &b).map(Cow::Owned)
    }

    /// A field or an item; what is borrowed stays borrowed.
    fn inside(&mut self, of: Cow<'a, Value>, key: &Value, maybe: bool) -> Found<'a> {
        match of {
            Cow::Borrowed(of) => pick(of, key, maybe).map(|v| match v {
                Some(value) => Cow::Borrowed(value),
                None => Cow::Owned(Value::Nil),
            }),
            Cow::Owned(of) => {
                self.spend(size(&of))?;
                pick(&of, key, maybe).map(|v| Cow::Owned(v.cloned().unwrap_or(Value::Nil)))
            }
        }
    }

    fn call(&mut self, call: Call, given: Vec<Cow<'a, Value>>) -> Found<'a> {
        let mut given = given.into_iter();
        let first = given.next().unwrap_or(Cow::Owned(Value::Nil));
        self.spend(size(&first))?;
        match call {
            Call::Default => {
                let other = given.next().unwrap_or(Cow::Owned(Value::Nil));
                Ok(if *first == Value::Nil { other } else { first })
            }
            Call::IsNil => truth(*first == Value::Nil),
            Call::Len => number(length(&first)?),
            Call::IsNaN => truth(as_number(&first)?.is_nan()),
            Call::IsInf => truth(as_number(&first)?.is_infinite()),
            Call::AsInt => read(&first).map(|n| Cow::Owned(Value::Number(n.trunc()))),
            Call::AsFloat => read(&first).map(|n| Cow::Owned(Value::Number(n))),
            Call::Abs => number(as_number(&first)?.abs()),
            Call::Floor => number(as_number(&first)?.floor()),
            Call::Ceil => number(as_number(&first)?.ceil()),
            Call::Round => number(as_number(&first)?.round()),
            Call::First | Call::Last => {
                let items = list(&first)?;
                let found = if call == Call::First { items.first() } else { items.last() };
                Ok(Cow::Owned(found.cloned().unwrap_or(Value::Nil)))
            }
            Call::Lower => text(&first, &str::to_lowercase),
            Call::Upper => text(&first, &str::to_uppercase),
            Call::Trim => text(&first, &|t: &str| t.trim().to_owned()),
            Call::Text => Ok(Cow::Owned(Value::Text(first.to_string()))),
            Call::Min | Call::Max | Call::Sum | Call::Mean => {
                let more: Vec<_> = given.map(|v| as_number(&v)).collect::<Result<_, _>>()?;
                fold(call, &first, more)
            }
        }
    }

    fn each<'n: 'a>(
        &mut self,
        each: Each,
        of: &'n Node,
        test: &'n Node,
        item: Option<&'a Value>,
    ) -> Found<'a> {
        // What was made in the expression itself cannot be lent to its predicates.
        let Cow::Borrowed(of) = self.value(of, item)? else {
            return Err("a predicate is asked only of parts of `result`".to_owned());
        };
        let items = list(of)?;
        let mut yes = Vec::new();
        let mut made = Vec::new();
        for one in items {
            if each == Each::Map {
                let new = self.value(test, Some(one))?.into_owned();
                self.spend(size(&new))?;
                made.push(new);
                continue;
            }
            let is = self.bool(test, Some(one))?;
            if is {
                yes.push(one);
            }
            match each {
                Each::All if !is => return truth(false),
                Each::Any if is => return truth(true),
                Each::None if is => return truth(false),
                _ => {}
            }
        }
        match each {
            Each::All | Each::None => truth(true),
            Each::Any => truth(false),
            Each::One => truth(yes.len() == 1),
            Each::Count => number(count(yes.len())),
            Each::Filter => Ok(Cow::Owned(Value::List(yes.into_iter().cloned().collect()))),
            Each::Map => Ok(Cow::Owned(Value::List(made))),
        }
    }
}

/// What going through a value costs, in steps.
fn size(value: &Value) -> usize {
    match value {
        Value::List(items) => items.len(),
        Value::Map(map) => map.len(),
        Value::Text(text) => text.len() / 16,
        _ => 0,
    }
}

#[expect(clippy::cast_precision_loss, reason = "lists of 2^53 items do not fit an answer")]
fn count(n: usize) -> f64 {
    n as f64
}

fn length(value: &Value) -> Result<f64, String> {
    match value {
        Value::List(items) => Ok(count(items.len())),
        Value::Map(map) => Ok(count(map.len())),
        Value::Text(text) => Ok(count(text.chars().count())),
        other => Err(format!("{} has no length", other.kind())),
    }
}

fn as_number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(n) => Ok(*n),
        other => Err(format!("{} is no number", other.kind())),
    }
}

/// A number, or text that is one.
fn read(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(n) => Ok(*n),
        Value::Text(text) => {
            text.trim().parse().map_err(|_| format!("the text `{}` is no number", brief(text)))
        }
        other => Err(format!("{} cannot become a number", other.kind())),
    }
}

fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::List(items) => Ok(items),
        other => Err(format!("{} is no list", other.kind())),
    }
}

fn text(value: &Value, change: &dyn Fn(&str) -> String) -> Found<'static> {
    match value {
        Value::Text(text) => Ok(Cow::Owned(Value::Text(change(text)))),
        other => Err(format!("{} is no text", other.kind())),
    }
}

fn fold(call: Call, first: &Value, more: Vec<f64>) -> Found<'static> {
    let mut all = match first {
        Value::List(items) => items.iter().map(as_number).collect::<Result<Vec<_>, _>>()?,
        other => vec![as_number(other)?],
    };
    all.extend(more);
    if all.is_empty() && call != Call::Sum {
        return Err("the list is empty".to_owned());
    }
    // A NaN among them makes them all one: `f64::min` would hide it.
    let nan = all.iter().any(|n| n.is_nan());
    number(match call {
        _ if nan => f64::NAN,
        Call::Min => all.iter().copied().fold(f64::INFINITY, f64::min),
        Call::Max => all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Call::Mean => all.iter().sum::<f64>() / count(all.len()),
        _ => all.iter().sum(),
    })
}

/// What is under a key; none where an object has no such field.
fn pick<'v>(of: &'v Value, key: &Value, maybe: bool) -> Result<Option<&'v Value>, String> {
    match (of, key) {
        (Value::Nil, _) if maybe => Ok(None),
        (Value::Map(map), Value::Text(name)) => Ok(map.get(name)),
        (Value::List(items), Value::Number(n)) => {
            let from_end = *n < 0.0;
            let index = if from_end { count(items.len()) + n } else { *n };
            let found = items.iter().enumerate().find(|(i, _)| {
                // Whole numbers only: 0.5 is no index.
                (count(*i) - index).abs() < f64::EPSILON
            });
            match found {
                Some((_, value)) => Ok(Some(value)),
                None => Err(format!("index {n} is outside of a list of {}", items.len())),
            }
        }
        (of, key) => Err(format!("{} has nothing under {}", of.kind(), key.kind())),
    }
}

fn binary(op: Op, a: &Value, b: &Value) -> Result<Value, String> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let truth = |is| Ok(Value::Bool(is));
    match op {
        Op::Equal => return truth(a == b),
        Op::Differ => return truth(a != b),
        Op::In | Op::NotIn => return truth(within(a, b)? == (op == Op::In)),
        Op::Contains | Op::StartsWith | Op::EndsWith => {
            let (Value::Text(a), Value::Text(b)) = (a, b) else {
                return Err(format!("{} and {} are not both text", a.kind(), b.kind()));
            };
            return truth(match op {
                Op::Contains => a.contains(b.as_str()),
                Op::StartsWith => a.starts_with(b.as_str()),
                _ => a.ends_with(b.as_str()),
            });
        }
        Op::Add => {
            if let (Value::Text(a), Value::Text(b)) = (a, b) {
                return Ok(Value::Text(format!("{a}{b}")));
            }
        }
        Op::Less | Op::LessOrEqual | Op::More | Op::MoreOrEqual => {
            let order = match (a, b) {
                // NaN is neither more nor less than anything.
                (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
                (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
                (a, b) => return Err(format!("{} cannot be compared with {}", a.kind(), b.kind())),
            };
            return truth(match op {
                Op::Less => order == Some(Less),
                Op::LessOrEqual => matches!(order, Some(Less | Equal)),
                Op::More => order == Some(Greater),
                _ => matches!(order, Some(Greater | Equal)),
            });
        }
        _ => {}
    }
    let (a, b) = (as_number(a)?, as_number(b)?);
    Ok(Value::Number(match op {
        Op::Add => a + b,
        Op::Subtract => a - b,
        Op::Multiply => a * b,
        Op::Divide => a / b,
        Op::Remainder => a % b,
        Op::Power => a.powf(b),
        _ => return Err("that operator is not for numbers".to_owned()),
    }))
}

fn within(item: &Value, of: &Value) -> Result<bool, String> {
    match (item, of) {
        (item, Value::List(items)) => Ok(items.contains(item)),
        (Value::Text(name), Value::Map(map)) => Ok(map.contains_key(name)),
        (_, Value::Nil) => Ok(false),
        (item, of) => Err(format!("{} cannot be in {}", item.kind(), of.kind())),
    }
}
