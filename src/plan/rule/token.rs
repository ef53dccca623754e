//! The tokens of a rule.

use super::{RuleError, VARIABLES};

/// Every operator, longest first so that `<=` is not read as `<`.
const OPERATORS: [&str; 16] = ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "(", ")"];

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Finite, not negative.
    Number(f64),
    /// A variable or a truth value.
    Name(&'static str),
    /// Also a parenthesis.
    Operator(&'static str),
}

/// A token and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Kind,
    /// As it was written.
    pub(super) written: String,
    /// Characters from 1.
    pub(super) column: usize,
    /// Bytes up to behind it.
    pub(super) end: usize,
}

impl Token {
    /// As the engine is given it. Numbers always have a point: the engine divides integers without remainder.
    pub(super) fn source(&self, strict: bool) -> String {
        match &self.kind {
            Kind::Operator("&&") if strict => "&".to_owned(),
            Kind::Operator("||") if strict => "|".to_owned(),
            Kind::Number(value) if value.fract() == 0.0 => format!("{value:.1}"),
            Kind::Number(value) => value.to_string(),
            Kind::Name(text) | Kind::Operator(text) => (*text).to_owned(),
        }
    }
}

/// Refuses parentheses without a partner; the engine would complain of whatever stands behind them.
pub(super) fn pair(tokens: &[Token]) -> Result<(), RuleError> {
    let mut open = Vec::new();
    for token in tokens {
        match token.kind {
            Kind::Operator("(") => open.push(token),
            Kind::Operator(")") if open.pop().is_none() => return Err(unpaired(token)),
            _ => {}
        }
    }
    open.pop().map_or(Ok(()), |token| Err(unpaired(token)))
}

fn unpaired(token: &Token) -> RuleError {
    let found = format!("`{}` without its partner", token.written);
    RuleError { column: Some(token.column), found, allowed: "pairs of parentheses".to_owned() }
}

/// Cuts a rule into tokens.
pub(super) fn cut(text: &str) -> Result<Vec<Token>, RuleError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let start = text.len() - rest.len();
        let column = text.get(..start).map_or(0, |before| before.chars().count()) + 1;
        let refuse = |found: String, allowed: String| Err(RuleError { column: Some(column), found, allowed });
        let (kind, length) = if first.is_ascii_digit() || first == '.' {
            let length = number_length(rest);
            let written = rest.get(..length).unwrap_or_default();
            match written.parse::<f64>() {
                Ok(value) if value.is_finite() => (Kind::Number(value), length),
                _ => return refuse(format!("`{written}`"), "a number such as 200, 0.8 or 1.5e9".to_owned()),
            }
        } else if first.is_alphabetic() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let written = rest.get(..length).unwrap_or_default();
            let known = VARIABLES.iter().map(|(name, _)| *name).chain(["true", "false"]);
            match known.clone().find(|name| *name == written) {
                Some(name) => (Kind::Name(name), length),
                None => {
                    let names = known.collect::<Vec<_>>().join(" ");
                    return refuse(format!("the unknown name `{}`", shorten(written)), names);
                }
            }
        } else if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
            (Kind::Operator(operator), operator.len())
        } else {
            let allowed = "numbers, names, + - * / % < <= > >= == != && || ! ( )".to_owned();
            return refuse(format!("`{}`", first.escape_debug()), allowed);
        };
        let end = start + length;
        let written = text.get(start..end).unwrap_or_default().to_owned();
        if let (Some(previous), Kind::Number(_) | Kind::Name(_) | Kind::Operator("(")) = (tokens.last(), &kind)
            && matches!(previous.kind, Kind::Number(_) | Kind::Name(_))
        {
            let hint = "an operator between them, as in `200 * MiB`".to_owned();
            return refuse(format!("`{}` behind `{}`", shorten(&written), previous.written), hint);
        }
        tokens.push(Token { kind, written, column, end });
        rest = text.get(end..).unwrap_or_default();
    }
}

/// Digits, a point, digits, an exponent.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 40 { text.to_owned() } else { text.chars().take(40).chain(['\u{2026}']).collect() }
}
