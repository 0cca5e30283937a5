# subbyte::xsimd from any xsimd >= 8.1, as include directories only.
#
# The package's own target is not linked: Debian 12's 8.1.0 names xtl as a library without finding
# it, and 14.x finds xtl unless the variable below says otherwise. No version is passed to
# find_package either, because xsimd's version file accepts its own major version only.
if(NOT TARGET subbyte::xsimd)
  if(NOT DEFINED XSIMD_ENABLE_XTL_COMPLEX)
    set(XSIMD_ENABLE_XTL_COMPLEX OFF)
  endif()
  if(NOT TARGET xsimd)
    find_package(xsimd QUIET NO_MODULE)
  endif()
  if(TARGET xsimd AND NOT (xsimd_VERSION AND xsimd_VERSION VERSION_LESS 8.1))
    get_target_property(_subbyte_xsimd_include xsimd INTERFACE_INCLUDE_DIRECTORIES)
    add_library(subbyte::xsimd INTERFACE IMPORTED)
    set_target_properties(
      subbyte::xsimd
      PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_subbyte_xsimd_include}"
                 INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${_subbyte_xsimd_include}")
    unset(_subbyte_xsimd_include)
  endif()
endif()
