"""Conan 2 recipe: a header-only package that brings its own CMake config file."""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load

required_conan_version = ">=2.5"


class SubbyteConan(ConanFile):
    name = "subbyte"
    description = "Header-only weight quantization"
    license = "Apache-2.0"
    topics = ("quantization", "gguf", "llm", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    # One option per dependency: xsimd is for the component cpu, JSON for io, Eigen for calibrate.
    options = {"with_xsimd": [True, False], "with_json": [True, False], "with_eigen": [True, False]}
    default_options = {"with_xsimd": True, "with_json": True, "with_eigen": True}
    implements = ["auto_header_only"]
    exports_sources = "CMakeLists.txt", "cmake/*", "include/*", "cuda/*", "LICENSE", "NOTICE"
    no_copy_source = True
    test_package_folder = "tests/consumers/conan"

    def set_version(self):
        text = load(self, os.path.join(self.recipe_folder, "include/subbyte/version.hpp"))
        self.version = ".".join(re.findall(r"VERSION_(?:MAJOR|MINOR|PATCH)\s+(\d+)", text))

    def requirements(self):
        if self.options.with_xsimd:
            self.requires("xsimd/[>=8.1 <15]", transitive_headers=True)
        if self.options.with_json:
            self.requires("nlohmann_json/[>=3.11 <4]", transitive_headers=True)
        if self.options.with_eigen:
            self.requires("eigen/[>=3.4 <6]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = False
        toolchain.cache_variables["SUBBYTE_BUILD_TESTS"] = False
        toolchain.cache_variables["SUBBYTE_BUILD_EXAMPLES"] = False
        toolchain.cache_variables["SUBBYTE_BUILD_BENCHMARKS"] = False
        toolchain.cache_variables["SUBBYTE_INSTALL"] = True
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        for name in ("LICENSE", "NOTICE"):
            copy(self, name, self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        self.cpp_info.set_property("cmake_find_mode", "none")  # the installed config file is used
        self.cpp_info.builddirs = ["share/cmake/subbyte"]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
