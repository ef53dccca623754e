//! Whether a defrag pays: an expression over one member's figures.
//!
//! The variables keep etcd-defrag's names and meanings, so its rules carry over. Every number is a float, as there:
//! `80/100*dbQuota` is four fifths of the quota, not zero.
//!
//! The text is first cut into tokens here and only then handed to the expression engine. That keeps the language
//! closed (no strings, statements or function calls reach the engine) and makes every complaint name a column.
//!
//! Its one danger: a mistake that shows only at night. `a || b` never looks at `b` while `a` holds, so a rule is tried
//! at load on several sample databases with *both* sides of every `&&` and `||` evaluated.

use std::fmt;
use std::sync::LazyLock;

use rhai::{AST, Dynamic, Engine, EvalAltResult, OptimizationLevel, Position, Scope};

mod token;
mod why;

use token::{Kind, Token};

pub use why::Condition;

/// Longest rule that is read, in bytes.
pub const MAX_TEXT: usize = 1024;

/// Deepest nesting that is read; a chain of operators counts as nesting.
const MAX_DEPTH: usize = 64;

/// Quota that a rule is given when nobody knows it: etcd's own default, in bytes.
pub const ASSUMED_QUOTA: u64 = 2 << 30;

/// The variables, in the order of the documentation.
pub const VARIABLES: [(&str, &str); 9] = [
    ("dbSize", "bytes of the database file"),
    ("dbSizeInUse", "bytes of it that hold data"),
    ("dbSizeFree", "dbSize - dbSizeInUse: what a defrag would give back"),
    ("dbQuota", "bytes that etcd allows the file; without a quota, infinitely many"),
    ("dbQuotaUsage", "dbSize / dbQuota; without a quota, 0"),
    ("dbFreeRatio", "dbSizeFree / dbSize, from 0 to 1"),
    ("KiB", "1024"),
    ("MiB", "1024 * 1024"),
    ("GiB", "1024 * 1024 * 1024"),
];

/// What a member's quota is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// This many bytes; 0 means the same as [`Quota::Disabled`].
    Bytes(u64),
    /// etcd enforces none.
    Disabled,
    /// Nobody told. Rules are given [`ASSUMED_QUOTA`].
    Unknown,
}

/// What a rule judges: one member's figures, from one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of the file.
    pub db_size: u64,
    /// Bytes in use in it.
    pub db_size_in_use: u64,
    /// What it may grow to.
    pub quota: Quota,
}

impl Figures {
    /// The value of a variable; bytes, ratios or plain numbers as [`VARIABLES`] says.
    fn value(&self, name: &str) -> Option<f64> {
        let size = self.db_size as f64;
        // A commit between etcd's two readings can show more in use than the file has.
        let free = self.db_size.saturating_sub(self.db_size_in_use) as f64;
        let quota = match self.quota {
            Quota::Bytes(0) | Quota::Disabled => f64::INFINITY,
            Quota::Bytes(bytes) => bytes as f64,
            Quota::Unknown => ASSUMED_QUOTA as f64,
        };
        Some(match name {
            "dbSize" => size,
            "dbSizeInUse" => self.db_size_in_use as f64,
            "dbSizeFree" => free,
            "dbQuota" => quota,
            "dbQuotaUsage" => size / quota,
            "dbFreeRatio" if self.db_size == 0 => 0.0,
            "dbFreeRatio" => free / size,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        })
    }
}

/// Databases a rule is tried on when it is read: usual, empty, full, over quota, without and with unknown quota.
const SAMPLES: [Figures; 6] = [
    Figures { db_size: 1 << 30, db_size_in_use: 400 << 20, quota: Quota::Bytes(2 << 30) },
    Figures { db_size: 20_480, db_size_in_use: 16_384, quota: Quota::Bytes(8 << 30) },
    Figures { db_size: 2 << 30, db_size_in_use: 2 << 30, quota: Quota::Bytes(2 << 30) },
    Figures { db_size: 9 << 30, db_size_in_use: 1 << 30, quota: Quota::Bytes(8 << 30) },
    Figures { db_size: 1 << 30, db_size_in_use: 400 << 20, quota: Quota::Disabled },
    Figures { db_size: 1 << 30, db_size_in_use: 400 << 20, quota: Quota::Unknown },
];

/// Why a text is not a rule, or a rule has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Where, in characters from 1; none: the rule as a whole.
    pub column: Option<usize>,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

impl std::error::Error for RuleError {}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(column) = self.column {
            write!(f, "column {column}: ")?;
        }
        write!(f, "found {}; allowed: {}", self.found, self.allowed)
    }
}

/// A checked rule: it has an answer, true or false, for every sample.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    tokens: Vec<Token>,
    ast: AST,
}

/// Two rules are the same when they were written the same.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Rule {}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    ///
    /// Names the column and what may stand there: for an unknown name the known ones, for anything but a condition
    /// that a rule is true or false. A rule that divides by zero for some sample database is refused as well.
    pub fn parse(text: &str) -> Result<Rule, RuleError> {
        let text = text.trim();
        if text.len() > MAX_TEXT {
            let found = format!("{} characters", text.len());
            let fits = text.char_indices().take_while(|(at, _)| *at < MAX_TEXT).count();
            return Err(RuleError { column: Some(fits + 1), found, allowed: format!("at most {MAX_TEXT}") });
        }
        let tokens = token::cut(text)?;
        if tokens.is_empty() {
            let allowed = "a condition; `true` defragments whenever the schedule fires".to_owned();
            return Err(RuleError { column: None, found: "nothing".to_owned(), allowed });
        }
        token::pair(&tokens)?;
        let rule = Rule { text: text.to_owned(), ast: compile(&tokens, false)?, tokens };
        let strict = Rule { ast: compile(&rule.tokens, true)?, ..rule.clone() };
        for sample in &SAMPLES {
            strict.evaluate(sample).map_err(|mut error| {
                if error.found.contains("zero") {
                    error.found += &format!(" for {}", strict.explain_values(sample));
                }
                error
            })?;
        }
        Ok(rule)
    }

    /// Whether a defrag pays.
    ///
    /// # Errors
    ///
    /// A division by zero that no sample showed.
    pub fn evaluate(&self, figures: &Figures) -> Result<bool, RuleError> {
        let value: Dynamic =
            ENGINE.eval_ast_with_scope(&mut scope(figures), &self.ast).map_err(|error| self.explain_error(*error))?;
        value.as_bool().map_err(|_| RuleError {
            column: self.tokens.first().map(|token| token.column),
            found: "a number".to_owned(),
            allowed: "a condition, true or false, such as `dbFreeRatio > 0.4`".to_owned(),
        })
    }

    /// The rule with its numbers filled in, and its answer: `dbQuotaUsage=0.34 > 0.8 is false`.
    pub fn explain(&self, figures: &Figures) -> String {
        let mut line = String::new();
        let mut rest = 0;
        for token in &self.tokens {
            line.push_str(self.text.get(rest..token.end).unwrap_or_default());
            rest = token.end;
            if let Kind::Name(name) = &token.kind
                && let Some(value) = figures.value(name).filter(|_| name.starts_with("db"))
            {
                line.push('=');
                line.push_str(&readable(name, value));
            }
        }
        match self.evaluate(figures) {
            Ok(answer) => line.push_str(&format!(" is {answer}")),
            Err(error) => line.push_str(&format!(" has no answer: {error}")),
        }
        if figures.quota == Quota::Unknown && self.uses("dbQuota") {
            line.push_str(" (quota unknown: 2GiB assumed)");
        }
        line
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many of the sample databases the rule would defragment, and of how many.
    pub fn samples_held(&self) -> (usize, usize) {
        (SAMPLES.iter().filter(|sample| self.evaluate(sample) == Ok(true)).count(), SAMPLES.len())
    }

    fn uses(&self, prefix: &str) -> bool {
        self.tokens.iter().any(|token| matches!(&token.kind, Kind::Name(name) if name.starts_with(prefix)))
    }

    fn explain_values(&self, figures: &Figures) -> String {
        let used = VARIABLES.iter().filter(|(name, _)| name.starts_with("db") && self.uses(name));
        let values = used.filter_map(|(name, _)| Some(format!("{name}={}", readable(name, figures.value(name)?))));
        values.collect::<Vec<_>>().join(" ")
    }

    fn explain_error(&self, error: EvalAltResult) -> RuleError {
        let column = column(&self.tokens, error.position());
        match error {
            EvalAltResult::ErrorArithmetic(..) => RuleError {
                column,
                found: "a division by zero".to_owned(),
                allowed: "a divisor that is never 0".to_owned(),
            },
            EvalAltResult::ErrorMismatchDataType(..)
            | EvalAltResult::ErrorMismatchOutputType(..)
            | EvalAltResult::ErrorFunctionNotFound(..) => RuleError {
                column,
                found: "an operator between things it does not fit".to_owned(),
                allowed: "&& || ! between conditions, the other operators between numbers".to_owned(),
            },
            other => RuleError { column, found: other.to_string(), allowed: "a condition".to_owned() },
        }
    }
}

/// One engine for all rules: it holds no state between evaluations and costs more than they do.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut engine = Engine::new_raw();
    engine.set_optimization_level(OptimizationLevel::None);
    engine.set_strict_variables(true);
    engine.set_max_expr_depths(MAX_DEPTH);
    engine.set_max_operations(10_000);
    // Built-in division of floats gives infinity, which is greater than every threshold: a defrag every night.
    engine.set_fast_operators(false);
    engine.register_fn("/", |a: f64, b: f64| divide(b, a / b));
    engine.register_fn("-", |a: f64| -a);
    engine.register_fn("+", |a: f64| a);
    engine.register_fn("!", |a: bool| !a);
    engine.register_fn("%", |a: f64, b: f64| divide(b, a % b));
    engine
});

fn divide(b: f64, result: f64) -> Result<f64, Box<EvalAltResult>> {
    if b == 0.0 {
        return Err(Box::new(EvalAltResult::ErrorArithmetic("division by zero".to_owned(), Position::NONE)));
    }
    Ok(result)
}

fn scope(figures: &Figures) -> Scope<'static> {
    let mut scope = Scope::new();
    for (name, _) in VARIABLES {
        if let Some(value) = figures.value(name) {
            scope.push_constant(name, value);
        }
    }
    scope
}

/// Compiles the tokens; `strict`: with `&` and `|`, which look at both sides and bind alike.
fn compile(tokens: &[Token], strict: bool) -> Result<AST, RuleError> {
    // One token a line: the line of an error is the token that it is about.
    let source = tokens.iter().map(|token| token.source(strict)).collect::<Vec<_>>().join("\n");
    ENGINE.compile_expression_with_scope(&scope(&SAMPLES[0]), source).map_err(|error| {
        let text = error.err_type().to_string();
        let column = column(tokens, error.position());
        if text.contains("complexity") {
            let found = "a rule nested too deeply".to_owned();
            return RuleError { column, found, allowed: format!("at most {MAX_DEPTH} levels") };
        }
        let last = tokens.last();
        let found = match error.position().line().and_then(|line| tokens.get(line.checked_sub(1)?)) {
            // The engine points at the last token when it misses something behind it.
            Some(token) if Some(token) != last => format!("`{}`", token.written),
            _ => format!("the end behind `{}`", last.map_or("", |token| token.written.as_str())),
        };
        let allowed = "numbers, names, + - * / % < <= > >= == != && || ! ( )".to_owned();
        RuleError { column, found, allowed }
    })
}

fn column(tokens: &[Token], position: Position) -> Option<usize> {
    position.line().and_then(|line| tokens.get(line.checked_sub(1)?)).map(|token| token.column)
}

/// A value as people read it: sizes in binary units, everything else as a number.
fn readable(name: &str, value: f64) -> String {
    if matches!(name, "dbQuotaUsage" | "dbFreeRatio") {
        return format!("{value:.2}");
    }
    if value.is_infinite() {
        return "unlimited".to_owned();
    }
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| value >= f64::from(1_u32 << shift));
    match unit {
        Some((unit, shift)) => {
            let number = format!("{:.1}", value / f64::from(1_u32 << shift));
            format!("{}{unit}", number.strip_suffix(".0").unwrap_or(&number))
        }
        None => format!("{value}B"),
    }
}

#[cfg(test)]
mod tests;
