//! kontiki-apiserver
