//! `{{args.NAME}}`, and secrets that stay outside.
//!
//! What is in a Secret never comes here: its argument is a placeholder of private-use characters,
//! which the controller replaces at the moment it asks.

use crate::api::analysis::SecretKey;
use crate::engine::questions::SecretUse;
use serde_json::Value;
use std::collections::BTreeMap;

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Text.
    Text(String),
    /// It is in a Secret.
    Secret(SecretKey),
    /// Not known yet: the template is only looked at, or no ReplicaSet is there.
    Unknown,
}

/// Arguments by name.
pub type Args = BTreeMap<String, Arg>;

/// What stands for an argument that is not known, where a template is only looked at. It is a
/// number and no duration: whoever reads one leaves such a field unread.
pub const UNKNOWN: &str = "0";

/// The text that stands for a secret.
pub fn placeholder(secret: &SecretKey) -> String {
    format!("\u{e000}{}\u{e001}{}\u{e002}", secret.name, secret.key)
}

/// The secrets that a text asks for.
pub fn secrets_in(text: &str) -> Vec<SecretUse> {
    let mut found: Vec<SecretUse> = Vec::new();
    for part in text.split('\u{e000}').skip(1) {
        let Some((inside, _)) = part.split_once('\u{e002}') else { continue };
        let Some((name, key)) = inside.split_once('\u{e001}') else { continue };
        let secret = SecretKey { name: name.to_owned(), key: key.to_owned() };
        let placeholder = placeholder(&secret);
        if !found.iter().any(|f| f.placeholder == placeholder) {
            found.push(SecretUse { placeholder, secret, otherwise: None });
        }
    }
    found
}

/// Whether a text holds a placeholder.
pub fn has_secret(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\u{e000}'),
        Value::Array(items) => items.iter().any(has_secret),
        Value::Object(map) => map.iter().any(|(k, v)| k.contains('\u{e000}') || has_secret(v)),
        _ => false,
    }
}

/// Puts the arguments into every text of a value.
pub fn fill(value: &Value, args: &Args) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(fill_text(text, args)?),
        Value::Array(items) => {
            Value::Array(items.iter().map(|v| fill(v, args)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(k, v)| Ok((fill_text(k, args)?, fill(v, args)?)))
                .collect::<Result<_, String>>()?,
        ),
        other => other.clone(),
    })
}

fn fill_text(text: &str, args: &Args) -> Result<String, String> {
    if text.contains(['\u{e000}', '\u{e001}', '\u{e002}']) {
        return Err("the characters U+E000 to U+E002 stand for secrets and may not be used".into());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (tag, after) = after.split_once("}}").ok_or("`{{` has no `}}`")?;
        let name = tag.trim().strip_prefix("args.").map(str::trim);
        let arg = name.and_then(|n| args.get(n));
        match arg {
            Some(Arg::Text(value)) => out.push_str(value),
            Some(Arg::Secret(secret)) => out.push_str(&placeholder(secret)),
            Some(Arg::Unknown) => out.push_str(UNKNOWN),
            None => return Err(format!("`{{{{{}}}}}` is no argument of the template", tag.trim())),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_stand_wherever_text_does_and_secrets_as_placeholders() {
        let secret = SecretKey { name: "dd".into(), key: "api-key".into() };
        let args = Args::from([
            ("service".to_owned(), Arg::Text("web".into())),
            ("max-rate".to_owned(), Arg::Unknown),
            ("token".to_owned(), Arg::Secret(secret.clone())),
        ]);
        let given = json!({"q": "up{s=\"{{ args.service }}\"} > {{args.max-rate}}", "n": 1,
            "h": ["Bearer {{args.token}}"]});
        let filled = fill(&given, &args).unwrap();
        assert_eq!(filled["q"], json!("up{s=\"web\"} > 0"));
        assert_eq!(filled["n"], json!(1));
        let header = filled["h"][0].as_str().unwrap();
        assert_eq!(header, format!("Bearer {}", placeholder(&secret)));
        assert_eq!(secrets_in(header)[0].secret, secret);
        assert!(has_secret(&filled) && !has_secret(&given));
        for bad in ["{{args.none}}", "{{args.service", "{{inputs.service}}", "\u{e000}a"] {
            assert!(fill(&json!(bad), &args).is_err(), "{bad}");
        }
    }
}
