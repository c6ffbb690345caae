//! Everything that a person or a script reads.

pub mod checks;
pub mod describe;
pub mod hint;
pub mod plan;
pub mod printer;
pub mod stage;
pub mod table;
pub mod tree;
pub mod when;

pub use hint::{Exit, Refusal};
pub use printer::Printer;
