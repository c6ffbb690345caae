//! Everything that a person or a script reads.

pub mod describe;
pub mod hint;
pub mod plan;
pub mod printer;
pub mod table;
pub mod tree;

pub use hint::{Exit, Refusal};
pub use printer::Printer;
