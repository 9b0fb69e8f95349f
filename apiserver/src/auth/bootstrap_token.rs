//! bootstrap_token
