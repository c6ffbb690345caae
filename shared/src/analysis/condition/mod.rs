//! Conditions of metrics: the part of the expr language that analysis templates use.
//!
//! A crate speaks the whole language, but neither its parser nor its evaluator knows a bound:
//! nested brackets overflow the stack and `1..9999999999` takes all memory, and whoever may write a
//! template would end the controller with it. It also learns only when it evaluates that a name is
//! unknown, which is too late for a canary that waits. So this one is small and total: what it does
//! not know is refused when it is read, with the position, and what it evaluates ends within a
//! fixed number of steps.
//!
//! | file | idea |
//! |---|---|
//! | [`value`] | what expressions are about |
//! | `lex` | text to tokens |
//! | `parse` | tokens to a tree, precedence climbing |
//! | `eval` | a tree and a result to a value |

mod eval;
mod lex;
mod parse;
#[cfg(test)]
mod tests;
pub mod value;

pub use value::Value;

/// Longest condition, in bytes.
pub const MOST_BYTES: usize = 4096;
/// Most words and signs of a condition: the tree is walked on the stack, and is no deeper.
const MOST_TOKENS: usize = 400;
/// Deepest nesting of a condition, in levels.
const MOST_LEVELS: usize = 40;
/// Most steps of one evaluation.
const MOST_STEPS: usize = 100_000;

/// Why a condition cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} at character {}", at + 1)]
pub struct Unread {
    /// Where, in characters from 0.
    pub at: usize,
    /// What is wrong there.
    pub why: String,
}

/// A condition that can be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    root: parse::Node,
    asks_for_data: bool,
}

impl Condition {
    /// Reads a condition.
    pub fn parse(text: &str) -> Result<Self, Unread> {
        if text.len() > MOST_BYTES {
            let why = format!("it is longer than {MOST_BYTES} bytes");
            return Err(Unread { at: MOST_BYTES, why });
        }
        let tokens = lex::tokens(text)?;
        if let Some(over) = tokens.get(MOST_TOKENS) {
            let why = format!("it has more than {MOST_TOKENS} words and signs");
            return Err(Unread { at: over.at, why });
        }
        let root = parse::parse(&tokens)?;
        let asks_for_data = parse::asks_for_data(&root);
        Ok(Self { root, asks_for_data })
    }

    /// Whether it deals itself with a result that has nothing in it: it calls `len`, `isNaN`,
    /// `isInf`, `isNil` or `default`, or has `??`, `?.` or nil in it. `all(result, …)` does not: it
    /// holds for an empty list without having looked at anything.
    pub fn asks_for_data(&self) -> bool {
        self.asks_for_data
    }

    /// Whether it holds for a result; an error where it cannot be said, as where a list is shorter
    /// than the index.
    pub fn holds(&self, result: &Value) -> Result<bool, String> {
        match eval::run(&self.root, result)? {
            Value::Bool(is) => Ok(is),
            other => Err(format!("the condition is {} and not true or false", other.kind())),
        }
    }
}
