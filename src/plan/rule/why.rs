//! A rule taken apart into its conditions, each with its own values and its own answer.

use rhai::Dynamic;
use serde::{Deserialize, Serialize};

use super::token::{Kind, Token};
use super::{ENGINE, Figures, Rule, compile, readable, scope};

/// Parts of a rule that a report can still be read with.
const MOST: usize = 32;

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Conditions with the same number must all hold together; of several numbers one is enough.
    pub alternative: usize,
    /// As written.
    pub text: String,
    /// With its values: `0.34 > 0.4`.
    pub values: String,
    /// Its answer; none: it has none for these figures.
    pub holds: Option<bool>,
}

impl Rule {
    /// The rule's conditions: alternatives of what must hold together. What is in parentheses or behind a `!` is one
    /// condition, so every rule can be taken apart like this. Empty for a rule of too many parts.
    pub fn conditions(&self, figures: &Figures) -> Vec<Condition> {
        let mut found = Vec::new();
        for (alternative, part) in split(&self.tokens, "||").into_iter().enumerate() {
            for tokens in split(part, "&&") {
                found.push(Condition {
                    alternative,
                    text: written(tokens),
                    values: values(tokens, figures),
                    holds: value(tokens, figures).and_then(|value| value.as_bool().ok()),
                });
            }
        }
        if found.len() > MOST { Vec::new() } else { found }
    }
}

/// The parts between the operators of this name that no parenthesis encloses.
fn split<'a>(tokens: &'a [Token], operator: &str) -> Vec<&'a [Token]> {
    let mut depth = 0_usize;
    tokens
        .split(|token| {
            match token.kind {
                Kind::Operator("(") => depth += 1,
                Kind::Operator(")") => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.kind == Kind::Operator(name(operator))
        })
        .collect()
}

/// The operators that are split at, as the tokens have them.
fn name(operator: &str) -> &'static str {
    match operator {
        "||" => "||",
        _ => "&&",
    }
}

fn written(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        let tight = token.kind == Kind::Operator(")") || text.ends_with(['(', '!']);
        if !tight && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&token.written);
    }
    text
}

/// Both sides of a comparison as numbers; any other condition with its variables filled in.
fn values(tokens: &[Token], figures: &Figures) -> String {
    const COMPARISONS: [&str; 6] = ["<", "<=", ">", ">=", "==", "!="];
    let mut depth = 0_i32;
    let at = tokens.iter().position(|token| match token.kind {
        Kind::Operator("(") => {
            depth += 1;
            false
        }
        Kind::Operator(")") => {
            depth -= 1;
            false
        }
        Kind::Operator(operator) => depth == 0 && COMPARISONS.contains(&operator),
        _ => false,
    });
    let sides = at.and_then(|at| {
        let (left, right) = (&tokens[..at], tokens.get(at + 1..)?);
        let number = |side: &[Token]| value(side, figures)?.as_float().ok();
        let unit = if is_ratio(left) || is_ratio(right) { "dbFreeRatio" } else { "dbSize" };
        let shown = |side| number(side).map(|value| readable(unit, value));
        Some(format!("{} {} {}", shown(left)?, tokens.get(at)?.written, shown(right)?))
    });
    sides.unwrap_or_else(|| {
        let filled: Vec<Token> = tokens.iter().map(|token| fill(token, figures)).collect();
        written(&filled)
    })
}

/// Whether a side is a plain number: a share, and not bytes.
fn is_ratio(side: &[Token]) -> bool {
    let plain = |token: &Token| match &token.kind {
        Kind::Name(name) => matches!(*name, "dbQuotaUsage" | "dbFreeRatio"),
        _ => true,
    };
    side.iter().all(plain) && side.iter().any(|token| matches!(token.kind, Kind::Name(_)))
}

fn fill(token: &Token, figures: &Figures) -> Token {
    let mut token = token.clone();
    if let Kind::Name(name) = token.kind
        && let Some(value) = figures.value(name).filter(|_| name.starts_with("db"))
    {
        token.written = readable(name, value);
    }
    token
}

/// The value of a part of the rule, if it has one by itself.
fn value(tokens: &[Token], figures: &Figures) -> Option<Dynamic> {
    let ast = compile(tokens, false).ok()?;
    ENGINE.eval_ast_with_scope(&mut scope(figures), &ast).ok()
}
