//! Text to tokens.

use super::Unread;

/// A token and where it begins, in characters from 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) what: What,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Number(f64),
    Text(String),
    Name(String),
    Sign(&'static str),
    End,
}

/// Longer signs before those that they begin with.
const SIGNS: [&str; 29] = [
    "**", "==", "!=", "<=", ">=", "&&", "||", "??", "?.", "..", "<", ">", "+", "-", "*", "/", "%",
    "^", "!", "?", ":", "(", ")", "[", "]", "{", "}", ",", "#",
];

/// All tokens, and one that ends them.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Unread> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let rest = chars.get(at..).unwrap_or_default();
        let digit = |i: usize| rest.get(i).is_some_and(char::is_ascii_digit);
        let (what, length) = if digit(0) || (c == '.' && digit(1)) {
            number(rest, at)?
        } else if c.is_alphabetic() || c == '_' || c == '$' {
            name(rest)
        } else if matches!(c, '"' | '\'' | '`') {
            quoted(rest, at)?
        } else {
            sign(rest, at)?
        };
        tokens.push(Token { at, what });
        at += length;
    }
    tokens.push(Token { at, what: What::End });
    Ok(tokens)
}

fn number(rest: &[char], at: usize) -> Result<(What, usize), Unread> {
    let mut length = 0;
    let mut digits = String::new();
    while let Some(&c) = rest.get(length) {
        let exponent = matches!(digits.chars().last(), Some('e' | 'E'));
        let part = c.is_ascii_digit()
            || (c == '.' && rest.get(length + 1) != Some(&'.') && !digits.contains('.'))
            || (matches!(c, 'e' | 'E') && !digits.contains(['e', 'E']))
            || (matches!(c, '+' | '-') && exponent);
        if c != '_' {
            if !part {
                break;
            }
            digits.push(c);
        }
        length += 1;
    }
    match digits.parse::<f64>() {
        Ok(number) => Ok((What::Number(number), length)),
        Err(_) => Err(Unread { at, why: format!("`{digits}` is no number") }),
    }
}

fn name(rest: &[char]) -> (What, usize) {
    let part = |c: &&char| c.is_alphanumeric() || matches!(c, '_' | '$');
    let name: String = rest.iter().take_while(part).collect();
    let length = name.chars().count();
    (What::Name(name), length)
}

fn quoted(rest: &[char], at: usize) -> Result<(What, usize), Unread> {
    let quote = rest.first().copied().unwrap_or('"');
    let mut text = String::new();
    let mut i = 1;
    while let Some(&c) = rest.get(i) {
        i += 1;
        if c == quote {
            return Ok((What::Text(text), i));
        }
        if c != '\\' || quote == '`' {
            text.push(c);
            continue;
        }
        let escaped = rest.get(i).copied();
        i += 1;
        text.push(match escaped {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(c @ ('\\' | '"' | '\'' | '`' | '/')) => c,
            _ => {
                let why = "only \\n, \\t, \\r, \\\\ and quotes may be escaped".to_owned();
                return Err(Unread { at: at + i - 1, why });
            }
        });
    }
    Err(Unread { at, why: format!("the text that begins here has no closing {quote}") })
}

fn sign(rest: &[char], at: usize) -> Result<(What, usize), Unread> {
    if rest.first() == Some(&'.') && rest.get(1) != Some(&'.') {
        return Ok((What::Sign("."), 1));
    }
    let fits = |s: &&&str| s.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    if let Some(sign) = SIGNS.iter().find(fits) {
        return Ok((What::Sign(sign), sign.len()));
    }
    let c = rest.first().copied().unwrap_or(' ');
    Err(Unread { at, why: format!("`{c}` means nothing") })
}
