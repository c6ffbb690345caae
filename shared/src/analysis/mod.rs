//! What metrics say of an Upgrade, by the rules of Argo Rollouts' analyses.
//!
//! | file | idea |
//! |---|---|
//! | [`condition`] | expressions about a measured value |
//! | [`jsonpath`] | which part of an answer is the value |
//! | [`args`] | `{{args.NAME}}`, and secrets that stay outside |
//! | [`template`] | templates and arguments to metrics that can be measured |
//! | [`source`] | what is asked for a metric, and what the answer says |
//! | [`assess`] | what measurements make of a metric, and metrics of an analysis |

pub mod args;
pub mod assess;
pub mod condition;
pub mod jsonpath;
pub mod source;
pub mod template;
#[cfg(test)]
mod tests;
