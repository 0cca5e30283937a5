# One translation unit per public header, which includes it twice and nothing else: the header needs
# no other include before it, and its guard works. All units are linked into one program, which fails
# on a definition that is not inline. A second set repeats floors 0 to 5 and kernel/ with
# -fno-exceptions, and one CUDA unit holds what promises to run on a device.

set(headers "")
set(components "")
foreach(component IN LISTS SUBBYTE_COMPONENTS)
  if(TARGET subbyte::${component})
    list(APPEND components subbyte::${component})
    list(APPEND headers ${SUBBYTE_HEADERS_${component}})
  endif()
endforeach()

set(units "")
set(units_without_exceptions "")
foreach(header IN LISTS headers)
  file(RELATIVE_PATH name "${PROJECT_SOURCE_DIR}/include/subbyte" "${header}")
  # Headers for a foreign library, where it is missing; mdspan has a test with the compiler it needs.
  if((name STREQUAL "exec/openmp.hpp" AND NOT OpenMP_CXX_FOUND)
     OR (name STREQUAL "interop/eigen.hpp" AND NOT TARGET Eigen3::Eigen)
     OR name STREQUAL "interop/mdspan.hpp")
    continue()
  endif()
  set(unit "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cpp")
  file(CONFIGURE OUTPUT "${unit}"
       CONTENT "#include \"subbyte/${name}\"\n#include \"subbyte/${name}\"\n")
  if(name STREQUAL "exec/openmp.hpp")
    set_source_files_properties("${unit}" PROPERTIES COMPILE_OPTIONS "${OpenMP_CXX_FLAGS}")
  endif()
  list(APPEND units "${unit}")
  if(name MATCHES "^(core|num|exec|tensor|simd|format|matrix|layout|metrics|kernel)/")
    list(APPEND units_without_exceptions "${unit}")
  endif()
endforeach()

file(CONFIGURE OUTPUT headers/main.cpp CONTENT "int main() {}\n")
add_executable(subbyte_test_headers ${units} ${CMAKE_CURRENT_BINARY_DIR}/headers/main.cpp)
target_link_libraries(subbyte_test_headers PRIVATE subbyte_development ${components})
target_compile_options(subbyte_test_headers PRIVATE -O0)
if(OpenMP_CXX_FOUND)
  target_link_libraries(subbyte_test_headers PRIVATE ${OpenMP_CXX_LIBRARIES})
endif()
if(TARGET Eigen3::Eigen)
  target_link_libraries(subbyte_test_headers PRIVATE Eigen3::Eigen)
endif()

add_library(subbyte_test_headers_without_exceptions OBJECT ${units_without_exceptions})
target_link_libraries(subbyte_test_headers_without_exceptions PRIVATE subbyte_development
                                                                      ${components})
target_compile_options(subbyte_test_headers_without_exceptions PRIVATE -O0 -fno-exceptions)

# nvcc is called directly: CMake 3.25 does not know C++20 for nvcc 13, and enabling the language
# would make every configuration pay for one unit.
if(CUDAToolkit_FOUND AND CUDAToolkit_NVCC_EXECUTABLE)
  set(device_headers ${headers})
  list(FILTER device_headers INCLUDE REGEX "/subbyte/(num/[^/]*|tensor/tensor_view|format/[^/]*)\\.hpp$")
  list(TRANSFORM device_headers REPLACE "^.*/include/(.*)$" "#include \"\\1\"" OUTPUT_VARIABLE includes)
  list(JOIN includes "\n" includes)
  set(unit "${CMAKE_CURRENT_BINARY_DIR}/headers/device.cu")
  file(CONFIGURE OUTPUT "${unit}" CONTENT "${includes}\n")
  set(device_units "${unit}")
  file(GLOB device_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/device/*.cu)
  foreach(unit IN LISTS device_units device_sources)
    cmake_path(GET unit FILENAME name)
    set(object "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.o")
    add_custom_command(
      OUTPUT "${object}"
      COMMAND "${CUDAToolkit_NVCC_EXECUTABLE}" -std=c++20 -Werror all-warnings
              -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a
              -I "${PROJECT_SOURCE_DIR}/include" -c "${unit}" -o "${object}"
      DEPENDS "${unit}" ${device_headers}
      COMMENT "Compiling ${name} for sm_80 and sm_90a" VERBATIM)
    list(APPEND device_objects "${object}")
  endforeach()
  add_custom_target(subbyte_test_device ALL DEPENDS ${device_objects})
endif()
