//! Tokens to a tree, by precedence climbing. Names are looked up here, so that what is unknown is
//! refused before anything waits for it.

use super::lex::{Token, What};
use super::{MOST_LEVELS, Unread, Value};

/// A part of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// A value as written.
    Just(Value),
    /// `result`
    Result,
    /// `#`: the item a predicate is asked about.
    Item,
    /// `[A, B]`
    List(Vec<Node>),
    /// `!A`, `-A`
    Not(Box<Node>),
    /// `-A`
    Minus(Box<Node>),
    /// `A + B`
    Both(Op, Box<Node>, Box<Node>),
    /// `A ? B : C`
    Choose(Box<Node>, Box<Node>, Box<Node>),
    /// `A.name`, `A[B]`; whether nil has nil in it (`?.`).
    Inside(Box<Node>, Box<Node>, bool),
    /// `len(A)`
    Call(Call, Vec<Node>),
    /// `all(A, {…})`
    Each(Each, Box<Node>, Box<Node>),
}

/// An operator between two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Or,
    And,
    Else,
    Equal,
    Differ,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
}

/// A function of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Len,
    IsNaN,
    IsInf,
    IsNil,
    Default,
    AsInt,
    AsFloat,
    Abs,
    Floor,
    Ceil,
    Round,
    Min,
    Max,
    Sum,
    Mean,
    First,
    Last,
    Lower,
    Upper,
    Trim,
    Text,
}

/// A function with a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Each {
    All,
    Any,
    None,
    One,
    Count,
    Filter,
    Map,
}

fn call(name: &str) -> Option<(Call, std::ops::RangeInclusive<usize>)> {
    Some(match name {
        "len" => (Call::Len, 1..=1),
        "isNaN" => (Call::IsNaN, 1..=1),
        "isInf" => (Call::IsInf, 1..=1),
        "isNil" => (Call::IsNil, 1..=1),
        "default" => (Call::Default, 2..=2),
        "asInt" | "int" => (Call::AsInt, 1..=1),
        "asFloat" | "float" => (Call::AsFloat, 1..=1),
        "abs" => (Call::Abs, 1..=1),
        "floor" => (Call::Floor, 1..=1),
        "ceil" => (Call::Ceil, 1..=1),
        "round" => (Call::Round, 1..=1),
        "min" => (Call::Min, 1..=16),
        "max" => (Call::Max, 1..=16),
        "sum" => (Call::Sum, 1..=1),
        "mean" => (Call::Mean, 1..=1),
        "first" => (Call::First, 1..=1),
        "last" => (Call::Last, 1..=1),
        "lower" => (Call::Lower, 1..=1),
        "upper" => (Call::Upper, 1..=1),
        "trim" => (Call::Trim, 1..=1),
        "string" => (Call::Text, 1..=1),
        _ => return None,
    })
}

fn each(name: &str) -> Option<Each> {
    Some(match name {
        "all" => Each::All,
        "any" => Each::Any,
        "none" => Each::None,
        "one" => Each::One,
        "count" => Each::Count,
        "filter" => Each::Filter,
        "map" => Each::Map,
        _ => return None,
    })
}

/// An operator, how tightly it binds, and whether it takes its right side first.
fn operator(what: &What) -> Option<(Op, u8, bool)> {
    let word = match what {
        What::Sign(sign) => sign,
        What::Name(name) => name.as_str(),
        _ => return None,
    };
    Some(match word {
        "??" => (Op::Else, 7, false),
        "||" | "or" => (Op::Or, 1, false),
        "&&" | "and" => (Op::And, 2, false),
        "==" => (Op::Equal, 3, false),
        "!=" => (Op::Differ, 3, false),
        "<" => (Op::Less, 3, false),
        "<=" => (Op::LessOrEqual, 3, false),
        ">" => (Op::More, 3, false),
        ">=" => (Op::MoreOrEqual, 3, false),
        "in" => (Op::In, 3, false),
        "contains" => (Op::Contains, 3, false),
        "startsWith" => (Op::StartsWith, 3, false),
        "endsWith" => (Op::EndsWith, 3, false),
        "+" => (Op::Add, 4, false),
        "-" => (Op::Subtract, 4, false),
        "*" => (Op::Multiply, 5, false),
        "/" => (Op::Divide, 5, false),
        "%" => (Op::Remainder, 5, false),
        "**" | "^" => (Op::Power, 6, true),
        _ => return None,
    })
}

/// Reads all of it.
pub(super) fn parse(tokens: &[Token]) -> Result<Node, Unread> {
    let mut reader = Reader { tokens, at: 0, level: 0, predicates: 0 };
    let node = reader.expression(0)?;
    match reader.next() {
        (_, What::End) => Ok(node),
        (at, what) => Err(Unread { at, why: format!("{} is not expected", show(&what)) }),
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    level: usize,
    predicates: usize,
}

impl Reader<'_> {
    fn peek(&self) -> &What {
        self.tokens.get(self.at).map_or(&What::End, |t| &t.what)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.at)
    }

    fn next(&mut self) -> (usize, What) {
        let next = (self.place(), self.peek().clone());
        self.at += 1;
        next
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), What::Sign(s) if *s == sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Unread> {
        let (at, found) = (self.place(), show(self.peek()));
        if self.take(sign) {
            return Ok(());
        }
        Err(Unread { at, why: format!("`{sign}` is missing before {found}") })
    }

    /// Everything that binds at least this tightly.
    fn expression(&mut self, least: u8) -> Result<Node, Unread> {
        self.level += 1;
        if self.level > MOST_LEVELS {
            let why = format!("it is nested deeper than {MOST_LEVELS} levels");
            return Err(Unread { at: self.place(), why });
        }
        let node = self.climb(least);
        self.level -= 1;
        node
    }

    fn climb(&mut self, least: u8) -> Result<Node, Unread> {
        let mut left = self.prefix()?;
        while let Some((op, tight, right_first)) = self.operator() {
            if tight < least {
                break;
            }
            self.at += 1 + usize::from(op == Op::NotIn);
            let right = self.expression(if right_first { tight } else { tight + 1 })?;
            left = Node::Both(op, Box::new(left), Box::new(right));
        }
        if least == 0 && self.take("?") {
            let yes = self.expression(0)?;
            self.expect(":")?;
            let no = self.expression(0)?;
            return Ok(Node::Choose(Box::new(left), Box::new(yes), Box::new(no)));
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(Op, u8, bool)> {
        let next = self.tokens.get(self.at + 1).map(|t| &t.what);
        match (self.peek(), next) {
            (What::Name(not), Some(What::Name(word))) if not == "not" && word == "in" => {
                Some((Op::NotIn, 3, false))
            }
            (what, _) => operator(what),
        }
    }

    fn prefix(&mut self) -> Result<Node, Unread> {
        let word = match self.peek() {
            What::Sign(sign @ ("!" | "-" | "+")) => *sign,
            What::Name(name) if name == "not" => "!",
            _ => return self.postfix(),
        };
        self.at += 1;
        // `not a in b` is `not (a in b)`; signs bind to what stands beside them.
        let named = matches!(self.tokens.get(self.at - 1).map(|t| &t.what), Some(What::Name(_)));
        let inner = self.expression(if named { 3 } else { 6 })?;
        Ok(match word {
            "!" => Node::Not(Box::new(inner)),
            "-" => Node::Minus(Box::new(inner)),
            _ => inner,
        })
    }

    fn postfix(&mut self) -> Result<Node, Unread> {
        let mut node = self.primary()?;
        for _ in 0..MOST_LEVELS {
            let maybe = matches!(self.peek(), What::Sign("?."));
            if maybe || matches!(self.peek(), What::Sign(".")) {
                self.at += 1;
                if maybe && self.take("[") {
                    let key = self.expression(0)?;
                    self.expect("]")?;
                    node = Node::Inside(Box::new(node), Box::new(key), true);
                    continue;
                }
                let (at, What::Name(name)) = self.next() else {
                    let why = "the name of a field is missing after the dot".to_owned();
                    return Err(Unread { at: self.place(), why });
                };
                if matches!(self.peek(), What::Sign("(")) {
                    return Err(Unread { at, why: format!("`.{name}()` is not known here") });
                }
                let key = Node::Just(Value::Text(name));
                node = Node::Inside(Box::new(node), Box::new(key), maybe);
            } else if self.take("[") {
                let key = self.expression(0)?;
                self.expect("]")?;
                node = Node::Inside(Box::new(node), Box::new(key), false);
            } else {
                return Ok(node);
            }
        }
        let why = format!("more than {MOST_LEVELS} fields follow one another");
        Err(Unread { at: self.place(), why })
    }

    fn primary(&mut self) -> Result<Node, Unread> {
        match self.next() {
            (_, What::Number(n)) => Ok(Node::Just(Value::Number(n))),
            (_, What::Text(text)) => Ok(Node::Just(Value::Text(text))),
            (at, What::Name(name)) => self.name(at, &name),
            (_, What::Sign("(")) => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            (_, What::Sign("[")) => Ok(Node::List(self.several("]")?)),
            (at, What::Sign("#")) if self.predicates == 0 => {
                Err(Unread { at, why: "`#` stands only in a predicate".to_owned() })
            }
            (_, What::Sign("#")) => Ok(Node::Item),
            // `.value` in a predicate is `#.value`; the dot is read again as what follows `#`.
            (_, What::Sign(".")) if self.predicates > 0 => {
                self.at -= 1;
                Ok(Node::Item)
            }
            (at, what) => Err(Unread { at, why: format!("{} is not expected", show(&what)) }),
        }
    }

    fn name(&mut self, at: usize, name: &str) -> Result<Node, Unread> {
        let called = matches!(self.peek(), What::Sign("("));
        match name {
            "true" | "false" if !called => return Ok(Node::Just(Value::Bool(name == "true"))),
            "nil" | "null" if !called => return Ok(Node::Just(Value::Nil)),
            "result" if !called => return Ok(Node::Result),
            _ if !called => {
                let why = format!("`{name}` is unknown; the measured value is `result`");
                return Err(Unread { at, why });
            }
            _ => self.at += 1,
        }
        if let Some(each) = each(name) {
            let of = self.expression(0)?;
            self.expect(",")?;
            self.predicates += 1;
            let braces = self.take("{");
            let test = self.expression(0)?;
            if braces {
                self.expect("}")?;
            }
            self.predicates -= 1;
            self.expect(")")?;
            return Ok(Node::Each(each, Box::new(of), Box::new(test)));
        }
        let Some((call, takes)) = call(name) else {
            return Err(Unread { at, why: format!("there is no function `{name}`") });
        };
        let given = self.several(")")?;
        if !takes.contains(&given.len()) {
            let why = format!("`{name}` takes {} and not {} values", takes.start(), given.len());
            return Err(Unread { at, why });
        }
        Ok(Node::Call(call, given))
    }

    fn several(&mut self, end: &str) -> Result<Vec<Node>, Unread> {
        let mut all = Vec::new();
        while !self.take(end) {
            all.push(self.expression(0)?);
            if !self.take(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(all)
    }
}

fn show(what: &What) -> String {
    match what {
        What::Number(n) => format!("`{n}`"),
        What::Text(_) => "the text".to_owned(),
        What::Name(name) => format!("`{name}`"),
        What::Sign(sign) => format!("`{sign}`"),
        What::End => "the end".to_owned(),
    }
}

/// Whether an expression deals with a result that has nothing in it.
pub(super) fn asks_for_data(node: &Node) -> bool {
    let nil = |n: &Node| matches!(n, Node::Just(Value::Nil));
    match node {
        // A predicate holds for all of nothing.
        Node::Just(_) | Node::Result | Node::Item | Node::Each(..) => false,
        Node::List(all) => all.iter().any(asks_for_data),
        Node::Not(a) | Node::Minus(a) => asks_for_data(a),
        Node::Both(Op::Else, ..) => true,
        Node::Both(_, a, b) => nil(a) || nil(b) || asks_for_data(a) || asks_for_data(b),
        Node::Choose(a, b, c) => [a, b, c].into_iter().any(|n| asks_for_data(n)),
        Node::Inside(a, b, maybe) => *maybe || asks_for_data(a) || asks_for_data(b),
        Node::Call(call, all) => {
            let own = [Call::Len, Call::IsNaN, Call::IsInf, Call::IsNil, Call::Default];
            own.contains(call) || all.iter().any(asks_for_data)
        }
    }
}
