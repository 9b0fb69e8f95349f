//! kontiki-chaos
